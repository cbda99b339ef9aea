// What anywidget calls: one module for every panel, told apart by `kind`.

function openingOf(model) {
  const opening = model.get("opening");
  return opening?.content ? [opening.content, opening.buffers ?? []] : null;
}

function makeView(model, wire) {
  const kind = model.get("kind");
  if (kind === "dashboard") return new DashboardView(wire);
  if (kind === "launcher") return new LauncherView(wire);
  return new MonitorView(wire, (message) => wire.send(message));
}

function render({ model, el }) {
  el.classList.add("tk-host");
  const box = h("div.tk-panel", {});
  el.append(box);
  const wire = new Wire(model);
  const view = makeView(model, wire);
  box.append(view.element);
  const opening = openingOf(model);
  if (opening) view.handle(...opening);
  wire.on((content, buffers) => view.handle(content, buffers));
  view.drawWays?.();
  wire.expects = () => view.live();
  wire.send({ type: "hello" });
  return () => {
    view.close();
    wire.close();
  };
}

export default { render };
