// A form that starts a job and then becomes its monitor.

class LauncherView {
  constructor(wire) {
    this.wire = wire;
    this.inputs = new Map();
    this.path = "";
    this.monitor = null;
    this.element = h("section.tk-launcher", {});
  }

  handle(content, buffers) {
    if (content.type === "form") {
      if (!this.form && !this.monitor) this.build(content);
    } else if (content.type === "preview") this.takePreview(content);
    else if (content.type === "problems") {
      if (content.number === undefined || content.number === this.number) this.takeProblems(content);
    }
    else if (content.type === "refused") this.refused(content);
    else if (content.type === "started") clearTimeout(this.waiting);
    else if (content.type === "lost" && !this.monitor) this.lost(content.lost === "gone");
    else {
      if (content.type === "full") this.become();
      this.monitor?.handle(content, buffers);
    }
  }

  live() {
    return this.monitor ? this.monitor.live() : true;
  }

  build(content) {
    this.form = content;
    const table = content.of === "table";
    this.note = h("div.tk-note.tk-warning", { role: "alert", hidden: true });
    const main = content.fields.filter((field) => field.group === "main");
    const more = content.fields.filter((field) => field.group === "more");
    const ofJob = content.fields.filter((field) => field.group === "job");
    this.start = h("button.tk-button.tk-primary", { type: "submit" }, "Start training");
    this.name = h("input.tk-input", { type: "text", placeholder: table ? "the table's name" : content.title, autocomplete: "off", id: newId("name") });
    this.runner = h("select.tk-input", { id: newId("runner") }, content.runners.map((name) => h("option", { value: name }, name)));
    this.runner.value = content.runner;
    const about = { thread: "In this kernel; ends with it", process: "Survives a kernel restart", ray: "On a Ray cluster" };
    this.runnerAbout = h("p.tk-about", {}, about[content.runner]);
    this.runner.addEventListener("change", () => say(this.runnerAbout, about[this.runner.value] ?? ""));
    this.status = h("span.tk-hint", { role: "status" });
    this.preview = h("div.tk-preview", { hidden: true });
    this.plan = h("div.tk-note.tk-plan", { role: "status", hidden: true });
    const form = h("form.tk-form", {
      novalidate: true,
      onsubmit: (event) => { event.preventDefault(); this.submit(); },
      oninput: () => this.check(),
      // Lab's notebook shortcuts must not see what is typed here.
      onkeydown: (event) => event.stopPropagation(),
    },
    table ? this.tablePicker(content.tables) : null,
    this.preview,
    h("div.tk-fields", {}, main.map((field) => this.field(field))),
    more.length ? h("details.tk-more", {}, h("summary", {}, "More options"), h("div.tk-fields", {}, more.map((field) => this.field(field)))) : null,
    h("div.tk-fields.tk-where-to", {},
      h("div.tk-field", {}, h("label", { for: this.runner.id }, "Run in"), this.runner, this.runnerAbout),
      h("div.tk-field", {}, h("label", { for: this.name.id }, "Name"), this.name, h("p.tk-about", {}, "What the job is called; may be left empty")),
      ofJob.map((field) => this.field(field))),
    this.plan, this.note,
    h("footer.tk-foot", {}, this.start, this.status));
    this.body = form;
    this.element.setAttribute("aria-label", table ? "Train on a table" : `Start ${content.title}`);
    this.element.replaceChildren(
      h("header.tk-head", {}, h("div.tk-title", {}, h("h3.tk-name", {}, content.title)), content.about ? h("p.tk-about.tk-wide", {}, content.about) : null),
      form);
    if (table) {
      this.target = this.inputs.get("target")?.input;
      this.start.disabled = true;
      if (content.tables.length === 1) this.choose(content.tables[0].path);
    }
  }

  tablePicker(tables) {
    this.tables = h("select.tk-input", { id: newId("table"), onchange: () => this.choose(this.tables.value) },
      h("option", { value: "" }, tables.length ? `Choose one of ${tables.length} …` : "No table below this folder"),
      tables.map((table) => h("option", { value: table.path }, `${table.path}  (${table.size})`)));
    this.tables.disabled = !tables.length;
    const none = "Tables are .csv, .tsv, .jsonl or .parquet files, also with .gz. Put one below the folder of the notebook.";
    return h("div.tk-field.tk-table-field", {}, h("label", { for: this.tables.id }, "Table"), this.tables,
      tables.length ? null : h("p.tk-about", {}, none));
  }

  field(field) {
    const id = newId("field");
    const about = h("p.tk-about", { id: `${id}-about` }, [range(field) ? field.about.replace(/\.$/, "") : field.about, range(field)].filter(Boolean).join(" · "));
    const problem = h("p.tk-problem", { id: `${id}-problem`, role: "alert", hidden: true });
    let input;
    if (field.kind === "choice") {
      input = h("select.tk-input", { id }, field.choices.map((choice) => h("option", { value: choice }, choice || "none")));
      if (field.name === "target") input.append(h("option", { value: "" }, "choose a table first"));
      input.value = field.default;
    } else if (field.kind === "bool") {
      input = h("input", { id, type: "checkbox" });
      input.checked = field.default === "true";
    } else {
      const mode = { int: "numeric", float: "decimal" }[field.kind];
      input = h("input.tk-input", { id, type: "text", inputmode: mode, placeholder: field.placeholder, autocomplete: "off", spellcheck: "false" });
      input.value = field.default;
      if (field.kind === "python") input.classList.add("tk-code");
    }
    input.setAttribute("aria-describedby", `${id}-about ${id}-problem`);
    if (field.required) input.setAttribute("aria-required", "true");
    const box = h(`div.tk-field.tk-field-${field.kind}`, {}, h("label", { for: id }, field.label || field.name, field.required ? h("span.tk-needed", {}, " needed") : null), input, problem, about);
    this.inputs.set(field.name, { field, input, problem, about, touched: false });
    input.addEventListener("input", () => { this.inputs.get(field.name).touched = true; });
    return box;
  }

  values() {
    const found = {};
    for (const [name, { field, input }] of this.inputs) found[name] = field.kind === "bool" ? String(input.checked) : input.value;
    return found;
  }

  check() {
    clearTimeout(this.checking);
    this.number = (this.number ?? 0) + 1;
    this.checking = setTimeout(() => this.wire.send({ type: "check", values: this.values(), number: this.number }), 250);
  }

  takeProblems({ problems, plan, refused, number }) {
    // What was found of an earlier table, or of values that have changed since, says nothing any more.
    if (this.form.of === "table" && number !== this.number) return;
    for (const [name, entry] of this.inputs) {
      const text = entry.touched && problems[name] ? problems[name] : "";
      say(entry.problem, text);
      show(entry.problem, Boolean(text));
      show(entry.about, !text);
      if (text) entry.input.setAttribute("aria-invalid", "true");
      else entry.input.removeAttribute("aria-invalid");
    }
    if (this.form.of !== "table") return;
    for (const [name, { field, input }] of this.inputs) {
      if (plan?.chosen[name] && field.placeholder !== undefined && input.placeholder !== undefined) input.placeholder = plan.chosen[name].replace(/^\[|\]$/g, "");
    }
    rebuild(this.plan, [plan?.summary, plan?.warnings], () => (plan ? [h("p", {}, plan.summary), ...plan.warnings.map((warning) => h("p.tk-plan-warning", {}, icon("UNREADABLE"), warning))] : []));
    show(this.plan, Boolean(plan));
    if (refused) this.refused({ about: "check", message: refused });
    else show(this.note, false);
  }

  choose(path) {
    clearTimeout(this.checking);
    this.number = (this.number ?? 0) + 1;
    this.path = path;
    this.tables.value = path;
    this.start.disabled = true;
    show(this.note, false);
    show(this.preview, false);
    show(this.plan, false);
    if (!path) return;
    say(this.status, "Reading the table …");
    this.wire.send({ type: "preview", path });
  }

  takePreview(found) {
    if (found.path !== this.path) return;
    say(this.status, "");
    this.start.disabled = false;
    // The same table, read with other options: what was chosen stays where there still is such a column.
    const chosen = this.previewed === found.path ? this.target.value : "";
    this.previewed = found.path;
    this.target.replaceChildren(...found.columns.map((column) => h("option", { value: column.name }, column.name)));
    this.target.value = found.columns.some((column) => column.name === chosen) ? chosen : found.target;
    this.name.placeholder = found.path.split("/").pop().split(".")[0];
    const mark = () => {
      for (const cell of this.preview.querySelectorAll("[data-column]")) cell.classList.toggle("tk-is-target", cell.dataset.column === this.target.value);
    };
    this.target.onchange = () => { mark(); this.check(); };
    const missing = (column) => (column.missing ? h("span.tk-missing", {}, `${grouped(column.missing)} missing`) : null);
    this.preview.replaceChildren(
      h("p.tk-about", {}, `${grouped(found.row_count)} rows, ${found.columns.length} columns. The first ${found.rows.length}:`),
      h("div.tk-scroll", { tabIndex: 0, role: "region", "aria-label": "First rows" }, h("table.tk-sheet", {},
        h("thead", {}, h("tr", {}, found.columns.map((column) => h("th", { scope: "col", "data-column": column.name, class: isNumber(column) ? "tk-right" : null },
          h("span.tk-column", {}, column.name), h("span.tk-type", {}, column.type), h("span.tk-type", {}, column.detail), missing(column))))),
        h("tbody", {}, found.rows.map((row) => h("tr", {}, row.map((value, i) => h("td", { "data-column": found.columns[i].name, class: isNumber(found.columns[i]) ? "tk-right" : null },
          value === "" ? h("span.tk-gone", {}, "missing") : value))))))));
    mark();
    show(this.preview, true);
    this.check();
  }

  submit() {
    if (this.start.disabled) return;
    show(this.note, false);
    this.start.disabled = true;
    say(this.status, "Checking and starting …");
    for (const entry of this.inputs.values()) entry.touched = true;
    this.number = (this.number ?? 0) + 1;
    this.wire.send({ type: "check", values: this.values(), number: this.number });
    const sent = this.wire.send({ type: "start", values: this.values(), path: this.path, runner: this.runner.value, name: this.name.value });
    if (!sent) return this.lost(true);
    this.waiting = setTimeout(() => say(this.status, "The kernel is busy with a cell; the job starts when that has ended."), 3000);
  }

  refused(content) {
    clearTimeout(this.waiting);
    say(this.status, "");
    this.start.disabled = content.about === "table";
    rebuild(this.note, [content.message, Date.now()], () => [h("p.tk-lines", {}, content.message)]);
    show(this.note, true);
  }

  lost(lost) {
    show(this.note, lost);
    this.start.disabled = lost;
    if (!lost) return;
    say(this.status, "");
    const call = this.form?.of === "table" ? "tk.launcher()" : `tk.launcher(${this.form?.title ?? "fit"})`;
    rebuild(this.note, ["lost"], () => [h("p", {}, "The kernel behind this form is gone. To have it back, run "), h("code", {}, call)]);
  }

  become() {
    if (this.monitor) return;
    clearTimeout(this.waiting);
    this.monitor = new MonitorView(this.wire, (message) => this.wire.send(message));
    this.element.replaceChildren(this.monitor.element);
    this.monitor.drawWays();
  }

  close() {
    clearTimeout(this.waiting);
    clearTimeout(this.checking);
    this.monitor?.close();
  }
}

function isNumber(column) {
  return column.type.endsWith("number");
}

function range(field) {
  const low = field.minimum ?? null;
  const high = field.maximum ?? null;
  if (low !== null && high !== null && high < 1e15) return `${plainNumber(low)} to ${plainNumber(high)}`;
  if (low !== null) return `at least ${plainNumber(low)}`;
  return high !== null ? `at most ${plainNumber(high)}` : "";
}

function plainNumber(value) {
  return Math.abs(value) >= 1e4 ? grouped(value) : String(value);
}
