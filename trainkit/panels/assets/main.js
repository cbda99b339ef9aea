// What anywidget calls: one module for every panel, told apart by `kind`.

function openingOf(model) {
  const opening = model.get("opening");
  return opening?.content ? [opening.content, opening.buffers ?? []] : null;
}

function renderMonitor(model, wire, box) {
  const view = new MonitorView(wire, (message) => wire.send(message));
  box.append(view.element);
  const opening = openingOf(model);
  if (opening) view.handle(...opening);
  const off = wire.on((content, buffers) => view.handle(content, buffers));
  view.drawWays();
  return () => {
    off();
    view.close();
  };
}

function render({ model, el }) {
  el.classList.add("tk-host");
  const box = h("div.tk-panel", {});
  el.append(box);
  const wire = new Wire(model);
  const views = { monitor: renderMonitor };
  const close = views[model.get("kind")](model, wire, box);
  requestAnimationFrame(() => wire.watch(el));
  wire.send({ type: "hello" });
  return () => {
    close();
    wire.close();
  };
}

export default { render };
