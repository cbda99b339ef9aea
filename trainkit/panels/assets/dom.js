// Building elements.  Text goes in as text, never as HTML: names, messages and output are the user's.

function h(tag, attributes, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Icons are drawn, not typed: a font may lack them.  Each is a 16 × 16 path.
const ICONS = {
  QUEUED: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm0 1.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9ZM7.3 5v3.4l2.6 1.5.7-1.2-1.9-1.1V5Z",
  RUNNING: "M5 3.2v9.6L12.6 8Z",
  PAUSED: "M4.5 3.5h2.6v9H4.5Zm4.4 0h2.6v9H8.9Z",
  STOPPING: "M4 4h8v8H4Zm1.5 1.5v5h5v-5Z",
  STOPPED: "M4 4h8v8H4Z",
  COMPLETED: "M6.4 12.4 2.6 8.6l1.3-1.3 2.5 2.5 5.7-5.7 1.3 1.3Z",
  FAILED: "M4.3 3 8 6.7 11.7 3 13 4.3 9.3 8l3.7 3.7-1.3 1.3L8 9.3 4.3 13 3 11.7 6.7 8 3 4.3Z",
  INTERRUPTED: "M9.2 1.5 3.5 9h3.4l-.9 5.5L12.5 7H8.6Z",
  DELETED: "M6.2 2h3.6l.5 1H13v1.4H3V3h2.7ZM4 5.4h8L11.3 14H4.7Z",
  UNREADABLE: "M8 1.8 1.2 13.6h13.6ZM7.3 6h1.4v4H7.3Zm0 5h1.4v1.4H7.3Z",
  info: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm-.8 2.6h1.6v1.6H7.2Zm0 2.6h1.6v4.4H7.2Z",
  bell: "M8 1.6c.6 0 1 .4 1 1v.5A4 4 0 0 1 12 7v3l1.3 1.6v.7H2.7v-.7L4 10V7a4 4 0 0 1 3-3.9v-.5c0-.6.4-1 1-1ZM6.5 13.2h3a1.5 1.5 0 0 1-3 0Z",
  branch: "M4.5 2a1.7 1.7 0 0 1 .8 3.2v5.6a1.7 1.7 0 1 1-1.6 0V5.2A1.7 1.7 0 0 1 4.5 2Zm7 1a1.7 1.7 0 0 1 .8 3.2c-.1 2.3-1.6 3.4-4 3.7-.8.1-1.6.3-2.1.7l-.9-1.3c.8-.6 1.8-.8 2.8-1 1.7-.2 2.5-.8 2.6-2.1A1.7 1.7 0 0 1 11.5 3Z",
  back: "M9.8 3 11 4.2 7.2 8l3.8 3.8L9.8 13l-5-5Z",
};

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "tk-icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name] ?? ICONS.info);
  svg.append(path);
  return svg;
}

// Set text only where it differs: a selection the user has made in it stays.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

// Rebuild the children of an element only when what they show has changed.
function rebuild(element, key, build) {
  const text = JSON.stringify(key);
  if (element.tkKey === text) return;
  element.tkKey = text;
  element.replaceChildren(...build().filter((child) => child !== null));
}

function readable(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e4 && size < 1e15) return value.toFixed(0);
  if (size < 1e-4 || size >= 1e15) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function grouped(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
}

// A slider that shows how far it is.  JupyterLab's own keys stay away from it.
function slider(attributes) {
  const made = h("input", { type: "range", "data-lm-suppress-shortcuts": "true", ...attributes });
  made.addEventListener("input", () => fill(made));
  fill(made);
  return made;
}

function fill(made) {
  const [low, high] = [Number(made.min), Number(made.max)];
  made.style.setProperty("--tk-share", `${((100 * (Number(made.value) - low)) / (high - low)).toFixed(1)}%`);
}

let ids = 0;
function newId(prefix) {
  ids += 1;
  return `tk-${prefix}-${ids}`;
}

function style(element, name) {
  return getComputedStyle(element).getPropertyValue(name).trim();
}

// Call back when the theme of the page changes, so that canvases can be drawn again.
function onTheme(callback) {
  const observer = new MutationObserver(callback);
  const options = { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light", "class"] };
  observer.observe(document.body, options);
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", callback);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", callback);
  };
}

// Ask before something that cannot be undone, in the panel itself.
function question(box, text, label, yes) {
  const close = () => box.replaceChildren();
  const sure = h("button.tk-button.tk-do-delete", { type: "button", onclick: () => { close(); yes(); } }, label);
  const keep = h("button.tk-button", { type: "button", onclick: close }, "Cancel");
  box.replaceChildren(h("div.tk-note.tk-warning.tk-question", {
    role: "alertdialog", "aria-label": text, onkeydown: (event) => event.key === "Escape" && close(),
  }, h("p", {}, text), h("div.tk-buttons", {}, sure, keep)));
  keep.focus();
}

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}
