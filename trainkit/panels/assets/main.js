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

// The display that the kernel updates is known only to the page that ran the cell.  A page that was loaded since
// holds the widget in the cell's output: put there what should be stored, as the kernel would have.
const SETTLED_AFTER_MS = 400;
const WIDGET = "application/vnd.jupyter.widget-view+json";

function settle(model, { model_id: modelId, data }) {
  const cells = model.widget_manager?.context?.model?.cells; // JupyterLab and Notebook 7
  for (let i = 0; cells && i < cells.length; i += 1) {
    const outputs = cells.get(i).outputs;
    for (let k = 0; outputs && k < outputs.length; k += 1) {
      if (outputs.get(k).data?.[WIDGET]?.model_id !== modelId) continue;
      outputs.set(k, { output_type: "display_data", data, metadata: {} });
    }
  }
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
  wire.on((content, buffers) => {
    if (content.type !== "settle") return view.handle(content, buffers);
    setTimeout(() => {
      settle(model, content);
      model.send({ type: "settled" });
    }, SETTLED_AFTER_MS);
  });
  view.drawWays?.();
  wire.expects = () => view.live();
  wire.send({ type: "hello" });
  return () => {
    view.close();
    wire.close();
  };
}

export default { render };
