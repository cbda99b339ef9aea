// All jobs: a table that stays quick with ten thousand rows, curves over each other, one job whole.

const ROW_HEIGHT = 32;
const MOST_ROWS_SHOWN = 10;
const MOST_CURVES = 8;
const LIVE = new Set(["QUEUED", "RUNNING", "PAUSED", "STOPPING"]);
const STATES = ["RUNNING", "QUEUED", "PAUSED", "STOPPING", "COMPLETED", "STOPPED", "FAILED", "INTERRUPTED", "UNREADABLE"];
// A row comes as a list, in the order of catalogue.COLUMNS.
const [ID, NAME, STATUS, PROGRESS, WHERE, METRICS, CREATED, RUNNER, ACTIONS, PARENT] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

const COLUMNS = [
  { key: STATUS, label: "State", css: "tk-c-state", compare: (a, b) => STATES.indexOf(a[STATUS]) - STATES.indexOf(b[STATUS]) },
  { key: NAME, label: "Name", css: "tk-c-name", compare: (a, b) => a[NAME].localeCompare(b[NAME], undefined, { numeric: true }) },
  { key: PROGRESS, label: "Progress", css: "tk-c-progress", compare: (a, b) => a[PROGRESS] - b[PROGRESS] },
  { key: METRICS, label: "Last metrics", css: "tk-c-metrics", compare: (a, b) => a[METRICS].localeCompare(b[METRICS], undefined, { numeric: true }) },
  { key: CREATED, label: "Age", css: "tk-c-age", compare: (a, b) => b[CREATED] - a[CREATED] },
  { key: RUNNER, label: "Runner", css: "tk-c-runner", compare: (a, b) => a[RUNNER].localeCompare(b[RUNNER]) },
];
const LABELS = { pause: "Pause", resume: "Resume", finish: "Finish", stop: "Stop", delete: "Delete" };

class DashboardView {
  constructor(wire) {
    this.wire = wire;
    this.rows = new Map();
    this.order = [];
    this.slots = new Array(MOST_CURVES).fill(null); // a job keeps its colour as long as it is selected
    this.selected = new Set();
    this.sort = { column: 4, down: false };
    this.filter = "";
    this.state = "";
    this.seq = null;
    this.active = 0;
    this.pool = [];
    this.monitor = null;
    this.build();
    this.clock = setInterval(() => this.drawRows(), 5000);
    this.onVisible = new ResizeObserver(() => this.drawRows());
    this.onVisible.observe(this.viewport);
  }

  build() {
    this.count = h("span.tk-count", { role: "status" });
    const search = h("input.tk-input.tk-search", {
      type: "search", placeholder: "Filter by name, id or metric", "aria-label": "Filter jobs",
      oninput: () => { this.filter = search.value.trim().toLowerCase(); this.rearrange(); },
    });
    const states = h("select.tk-input", {
      "aria-label": "Show which states", onchange: () => { this.state = states.value; this.rearrange(); },
    }, h("option", { value: "" }, "All states"), h("option", { value: "LIVE" }, "Live"),
    STATES.map((state) => h("option", { value: state }, state.charAt(0) + state.slice(1).toLowerCase())));
    this.selection = h("div.tk-selection", {});
    this.questions = h("div", {});
    this.note = h("div.tk-note.tk-warning", { role: "alert", hidden: true });
    this.headers = COLUMNS.map((column, i) => h(`div.tk-th.${column.css}`, { role: "columnheader" },
      h("button.tk-sort", { type: "button", onclick: () => this.sortBy(i) }, column.label, h("span.tk-arrow", {}))));
    this.sizer = h("div.tk-sizer", { role: "rowgroup" });
    this.viewport = h("div.tk-viewport", {
      tabIndex: 0, role: "rowgroup", "aria-label": "Jobs. Arrow keys move, space selects, Enter opens.",
      onscroll: () => this.drawRows(), onkeydown: (event) => this.key(event),
      onfocus: () => this.drawRows(), onblur: () => this.drawRows(),
    }, this.sizer);
    this.empty = h("div.tk-empty", {});
    this.table = h("div.tk-table", { role: "grid", "aria-label": "Jobs", "aria-multiselectable": "true" },
      h("div.tk-tr.tk-thead", { role: "row" }, h("div.tk-c-pick", { role: "columnheader", "aria-label": "Selected" }), this.headers),
      this.viewport, this.empty);
    this.metric = h("select.tk-input", { "aria-label": "Metric", onchange: () => this.askCurves() });
    const log = h("input", { type: "checkbox", onchange: () => this.look() });
    const smooth = slider({ class: "tk-slider", min: "0", max: "0.98", step: "0.02", value: "0", "aria-label": "Smoothing", oninput: () => this.look() });
    this.controls = { log, smooth };
    this.chart = new Chart("", {});
    this.chart.element.classList.add("tk-many");
    this.curves = h("section.tk-curves", { hidden: true, "aria-label": "Curves of the selected jobs" },
      h("div.tk-tools", {}, this.metric, h("span.tk-grow", {}), h("label.tk-tool", {}, "Smoothing", smooth), h("label.tk-tool", {}, log, "Log scale")),
      this.chart.element);
    this.list = h("div", {},
      h("header.tk-head", {}, h("div.tk-title", {}, h("h3.tk-name", {}, "Jobs"), this.count), search, states),
      this.selection, this.questions, this.note, this.table, this.curves);
    this.single = h("div", { hidden: true });
    this.element = h("section.tk-dashboard", { "aria-label": "Dashboard of all jobs" }, this.list, this.single);
  }

  handle(content, buffers) {
    if (content.type === "jobs") this.takeJobs(content);
    else if (content.type === "curves") this.takeCurves(content, buffers);
    else if (content.type === "job" && this.monitor?.jobId === content.job_id) this.monitor.handle(content.message, buffers);
    else if (content.type === "asked") {
      if (!content.ok) this.tell(content.message);
    } else if (content.type === "trouble") this.tell(content.message);
    else if (content.type === "lost") {
      if (content.lost) this.tell(`${content.lost === "gone" ? "The kernel that fed this dashboard is gone." : "The kernel has said nothing for a while."} To have the dashboard back, run tk.dashboard()`, true);
      else show(this.note, false);
      this.monitor?.handle(content, buffers);
    }
  }

  live() {
    return true;
  }

  tell(text, stays = false) {
    rebuild(this.note, [text, Date.now()], () => [h("p", {}, text)]);
    show(this.note, true);
    clearTimeout(this.hush);
    if (!stays) this.hush = setTimeout(() => show(this.note, false), 10000);
  }

  takeJobs(content) {
    if (!content.all && content.seq !== this.seq + 1) return this.wire.send({ type: "hello" });
    this.seq = content.seq;
    if (content.all) {
      this.rows = new Map();
      this.root = content.root;
      this.known = content.known;
    }
    for (const row of content.rows) this.rows.set(row[ID], row);
    for (const id of content.gone) {
      this.rows.delete(id);
      this.pick(id, false, true);
    }
    this.rearrange();
    if (content.gone.length) this.askCurves();
  }

  sortBy(i) {
    this.sort = { column: i, down: this.sort.column === i ? !this.sort.down : false };
    this.rearrange();
  }

  rearrange() {
    const words = this.filter.split(/\s+/).filter(Boolean);
    const wanted = (row) => (!this.state || (this.state === "LIVE" ? LIVE.has(row[STATUS]) : row[STATUS] === this.state))
      && words.every((word) => `${row[NAME]} ${row[ID]} ${row[METRICS]} ${row[RUNNER]}`.toLowerCase().includes(word));
    const found = words.length || this.state ? [...this.rows.values()].filter(wanted) : [...this.rows.values()];
    const { compare } = COLUMNS[this.sort.column];
    const sign = this.sort.down ? -1 : 1;
    found.sort((a, b) => sign * compare(a, b) || b[CREATED] - a[CREATED] || (a[ID] < b[ID] ? -1 : 1));
    this.order = found;
    const live = [...this.rows.values()].filter((row) => LIVE.has(row[STATUS])).length;
    const total = `${grouped(this.rows.size)} ${this.rows.size === 1 ? "job" : "jobs"}`;
    say(this.count, `${found.length < this.rows.size ? `${grouped(found.length)} of ` : ""}${total}${live ? ` · ${grouped(live)} live` : ""}`);
    this.headers.forEach((header, i) => {
      const on = this.sort.column === i;
      header.setAttribute("aria-sort", on ? (this.sort.down ? "descending" : "ascending") : "none");
      say(header.querySelector(".tk-arrow"), on ? (this.sort.down ? "↓" : "↑") : "");
    });
    const shown = Math.min(MOST_ROWS_SHOWN, Math.max(1, found.length));
    this.viewport.style.height = `${shown * ROW_HEIGHT}px`;
    this.sizer.style.height = `${found.length * ROW_HEIGHT}px`;
    this.table.setAttribute("aria-rowcount", found.length + 1);
    show(this.viewport, found.length > 0);
    show(this.empty, found.length === 0);
    say(this.empty, this.rows.size ? "No job matches the filter" : this.known ? "No jobs here yet. tk.submit(fit) or tk.launcher() starts one." : "Looking for jobs …");
    this.active = Math.min(this.active, Math.max(0, found.length - 1));
    this.drawSelection();
    this.drawRows();
  }

  newRow() {
    const box = h("input", { type: "checkbox", tabIndex: -1 });
    const name = h("button.tk-link", { type: "button", tabIndex: -1 });
    const id = h("span.tk-id", {});
    const descent = h("span.tk-descent", { role: "img" }, icon("branch"));
    const bar = h("div.tk-bar-fill", {});
    const cells = {
      pick: h("div.tk-c-pick", { role: "gridcell" }, h("label.tk-pick", {}, box, h("span.tk-swatch", {}))),
      state: h("div.tk-c-state", { role: "gridcell" }),
      name: h("div.tk-c-name", { role: "gridcell" }, name, descent, id),
      progress: h("div.tk-c-progress", { role: "gridcell" }, h("div.tk-bar", {}, bar), h("span", {})),
      metrics: h("div.tk-c-metrics", { role: "gridcell" }),
      age: h("div.tk-c-age", { role: "gridcell" }),
      runner: h("div.tk-c-runner", { role: "gridcell" }),
    };
    const row = h("div.tk-tr", { role: "row" }, Object.values(cells));
    const made = { row, box, name, id, descent, bar, cells, job: null };
    box.addEventListener("change", () => this.pick(made.job, box.checked));
    name.addEventListener("click", () => this.open(made.job));
    this.sizer.append(row);
    return made;
  }

  drawRows() {
    if (this.list.hidden) return;
    const first = Math.max(0, Math.floor(this.viewport.scrollTop / ROW_HEIGHT) - 2);
    const last = Math.min(this.order.length, first + MOST_ROWS_SHOWN + 5);
    const now = Date.now() / 1000;
    while (this.pool.length < last - first) this.pool.push(this.newRow());
    const focused = document.activeElement === this.viewport;
    this.pool.forEach((made, i) => {
      const at = first + i;
      const row = this.order[at];
      show(made.row, at < last);
      if (at >= last || !row) return;
      const { cells } = made;
      made.job = row[ID];
      made.row.style.transform = `translateY(${at * ROW_HEIGHT}px)`;
      made.row.setAttribute("aria-rowindex", at + 2);
      const chosen = this.selected.has(row[ID]);
      made.row.setAttribute("aria-selected", String(chosen));
      made.row.classList.toggle("tk-active", focused && at === this.active);
      made.box.checked = chosen;
      made.box.setAttribute("aria-label", `Select ${row[NAME]}`);
      const slot = this.slots.indexOf(row[ID]);
      made.row.style.setProperty("--tk-line", slot >= 0 ? `var(--tk-c${slot})` : "transparent");
      made.row.classList.toggle("tk-in-chart", slot >= 0);
      rebuild(cells.state, row[STATUS], () => [statePill(row[STATUS], "")]);
      say(made.name, row[NAME]);
      made.name.title = `${row[NAME]}\n${row[ID]}`;
      say(made.id, row[ID].slice(-4));
      show(made.descent, Boolean(row[PARENT]));
      made.descent.title = row[PARENT] ? this.descentOf(row) : "";
      made.descent.setAttribute("aria-label", made.descent.title);
      const bar = cells.progress.firstChild;
      bar.className = `tk-bar tk-${row[STATUS].toLowerCase()}`;
      made.bar.style.transform = `scaleX(${Math.min(1, row[PROGRESS] / 100)})`;
      say(cells.progress.lastChild, row[WHERE] || `${row[PROGRESS].toFixed(0)} %`);
      cells.progress.title = row[WHERE];
      say(cells.metrics, row[METRICS]);
      cells.metrics.title = row[METRICS];
      say(cells.age, ago(now - row[CREATED]));
      cells.age.title = new Date(row[CREATED] * 1000).toLocaleString();
      say(cells.runner, row[RUNNER]);
    });
  }

  pick(id, on, gone = false) {
    if (on === this.selected.has(id)) return;
    if (on) {
      this.selected.add(id);
      const free = this.slots.indexOf(null);
      if (free >= 0) this.slots[free] = id;
    } else {
      this.selected.delete(id);
      const slot = this.slots.indexOf(id);
      if (slot >= 0) this.slots[slot] = null;
    }
    if (gone) return;
    this.drawSelection();
    this.drawRows();
    this.askCurves();
  }

  descentOf(row) {
    const [id, step] = row[PARENT];
    const parent = this.rows.get(id)?.[NAME] ?? "a job that is gone";
    return step ? `${row[NAME]} branches off ${parent} at step ${grouped(step)}` : `${row[NAME]} repeats ${parent}`;
  }

  // Jobs that the selected ones come from, and that are not selected yet.
  parents() {
    const found = [...this.selected].map((id) => this.rows.get(id)?.[PARENT]?.[0]).filter((id) => id && this.rows.has(id) && !this.selected.has(id));
    return [...new Set(found)];
  }

  drawSelection() {
    const chosen = [...this.selected].map((id) => this.rows.get(id)).filter(Boolean);
    const parents = this.parents();
    const verbs = Object.keys(LABELS).filter((verb) => chosen.some((row) => row[ACTIONS].split(" ").includes(verb)));
    rebuild(this.selection, [chosen.length, verbs, parents], () => (chosen.length
      ? [h("span.tk-chosen", {}, `${grouped(chosen.length)} selected`),
        h("button.tk-quiet", { type: "button", onclick: () => this.clear() }, "Clear"),
        parents.length ? h("button.tk-quiet", { type: "button", onclick: () => parents.forEach((id) => this.pick(id, true)) }, icon("branch"), parents.length === 1 ? "Add the parent" : "Add the parents") : null,
        h("span.tk-grow", {}),
        h("div.tk-buttons", { role: "group", "aria-label": "Ask the selected jobs" }, verbs.map((verb) => h(`button.tk-button.tk-do-${verb}`, { type: "button", onclick: () => this.askAll(verb) }, LABELS[verb])))]
      : [h("span.tk-hint", {}, "Select jobs to compare their curves, stop, resume or delete them.")]));
    const first = this.slots.filter(Boolean).length;
    show(this.curves, first > 0);
  }

  clear() {
    this.selected.clear();
    this.slots.fill(null);
    this.drawSelection();
    this.drawRows();
    this.askCurves();
  }

  askAll(verb, sure = verb !== "delete") {
    const jobs = [...this.selected].map((id) => this.rows.get(id)).filter((row) => row?.[ACTIONS].split(" ").includes(verb));
    if (!sure) {
      const what = jobs.length === 1 ? jobs[0][NAME] : `${grouped(jobs.length)} jobs`;
      const text = `Delete ${what}, with ${jobs.length === 1 ? "its" : "their"} metrics, output, checkpoints and model${jobs.length === 1 ? "" : "s"}? This cannot be undone.`;
      return question(this.questions, text, `Delete ${what}`, () => this.askAll(verb, true));
    }
    for (const row of jobs) {
      this.wire.ask({ job_id: row[ID], root: this.root }, verb).catch((error) => this.tell(`${row[NAME]}: ${error.message}`));
    }
  }

  askCurves() {
    const jobs = this.slots.filter(Boolean);
    this.wire.send({ type: "curves", jobs, metric: this.metric.value });
    this.drawSelection();
  }

  takeCurves(content, buffers) {
    rebuild(this.metric, content.metrics, () => content.metrics.map((name) => h("option", { value: name }, name)));
    this.metric.value = content.metric;
    const names = this.slots.map((id) => (id ? this.rows.get(id)?.[NAME] : null));
    const lines = [];
    const keep = [];
    for (const series of content.series) {
      const slot = this.slots.indexOf(series.name);
      if (slot < 0) continue;
      const { x, y } = points(series, buffers);
      this.chart.set(series.name, x, y);
      keep.push(series.name);
      const twice = names.filter((name) => name === names[slot]).length > 1;
      lines.push({
        key: series.name,
        label: twice ? `${names[slot]} ${series.name.slice(-4)}` : names[slot],
        look: { colour: `--tk-c${slot}`, dash: slot % 2 ? [7, 3] : null, width: 1.6 },
      });
    }
    this.chart.drop(keep);
    this.chart.title = content.metric;
    say(this.chart.element.querySelector(".tk-chart-title"), lines.length ? "" : content.metric ? "" : "The selected jobs have logged nothing");
    this.chart.setLines(lines);
    this.chart.setMarks(this.slots.map((id) => this.rows.get(id)).filter((row) => row?.[PARENT]?.[1])
      .map((row) => ({ step: row[PARENT][1], text: this.descentOf(row).replace(/ at step .*$/, "") })));
    this.chart.draw();
  }

  look() {
    this.chart.look({ log: this.controls.log.checked, smoothing: Number(this.controls.smooth.value) });
  }

  open(id) {
    this.monitor?.close();
    const send = (message) => this.wire.send({ type: "job", message });
    this.monitor = new MonitorView(this.wire, send, { onBack: () => this.shut() });
    this.monitor.jobId = id;
    this.single.replaceChildren(this.monitor.element);
    show(this.single, true);
    show(this.list, false);
    this.wire.send({ type: "open", job_id: id });
    this.monitor.drawWays();
    this.single.querySelector("button")?.focus();
  }

  shut() {
    this.wire.send({ type: "shut" });
    this.monitor?.close();
    this.monitor = null;
    this.single.replaceChildren();
    show(this.single, false);
    show(this.list, true);
    this.drawRows();
    this.viewport.focus();
  }

  key(event) {
    if (event.target !== this.viewport) return;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: MOST_ROWS_SHOWN, PageUp: -MOST_ROWS_SHOWN, Home: -1e9, End: 1e9 };
    if (event.key in steps) {
      this.active = Math.min(this.order.length - 1, Math.max(0, this.active + steps[event.key]));
      const top = this.active * ROW_HEIGHT;
      if (top < this.viewport.scrollTop) this.viewport.scrollTop = top;
      else if (top + ROW_HEIGHT > this.viewport.scrollTop + this.viewport.clientHeight) this.viewport.scrollTop = top + ROW_HEIGHT - this.viewport.clientHeight;
      this.drawRows();
    } else if (event.key === " " && this.order[this.active]) {
      const id = this.order[this.active][ID];
      this.pick(id, !this.selected.has(id));
    } else if (event.key === "Enter" && this.order[this.active]) {
      this.open(this.order[this.active][ID]);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  close() {
    clearInterval(this.clock);
    this.onVisible.disconnect();
    this.chart.close();
    this.monitor?.close();
  }
}
