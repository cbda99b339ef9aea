// One job: where it is, its charts, what it was given, what it printed, and what can be asked of it.

const NOTES = {
  QUEUED: "Waiting for a free place to run",
  STOPPING: "Ending after its current step",
  PAUSED: "Waits after its current step; nothing is lost",
};

// What reaches the optimizers without the code's help.
const FOLLOWED = ["lr", "weight_decay"];

// Of more charts than these the others are folded away at first.
const MOST_CHARTS = 9;

// Rows of the log that are kept.
const MOST_ROWS = 201;

// silent: nobody can tell whether it still runs.
function statePill(status, phase, silent = false) {
  return h(`span.tk-state.tk-${silent ? "silent" : status.toLowerCase()}`, {}, icon(silent ? "UNREADABLE" : status), h("span", {}, status.charAt(0) + status.slice(1).toLowerCase()),
    silent ? h("span.tk-phase", {}, "no sign of life") : phase && status === "RUNNING" && phase !== "training" ? h("span.tk-phase", {}, phase) : null);
}

class MonitorView {
  // send(message): to the feed of this job; wire: for asking.
  constructor(wire, send, { heading = true, onBack = null } = {}) {
    this.wire = wire;
    this.send = send;
    this.card = null;
    this.seq = null;
    this.charts = new Map();
    this.settings = { log: false, smoothing: 0 };
    this.output = []; // rows of the log, of which the first has the number this.outputFrom
    this.outputFrom = 0;
    this.pending = null;
    this.dirty = new Set();
    this.syncKey = newId("sync");
    this.onBack = onBack;
    this.build(heading);
  }

  build() {
    this.title = h("h3.tk-name", {});
    this.state = h("div.tk-state-slot", { role: "status", "aria-live": "polite" });
    this.buttons = h("div.tk-buttons", { role: "group", "aria-label": "Ask the job" });
    this.bell = h("button.tk-button.tk-bell", { type: "button", hidden: true, onclick: () => this.toggleBell() }, icon("bell"));
    this.bar = h("div.tk-bar-fill", {});
    this.barBox = h("div.tk-bar", { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Progress" }, this.bar);
    this.where = h("span.tk-where", {});
    this.speed = h("span.tk-speed", {});
    this.percent = h("span.tk-percent", {});
    this.message = h("span.tk-message", { role: "status", "aria-live": "polite" });
    this.silence = h("div.tk-note.tk-warning", { role: "status", "aria-live": "polite", hidden: true });
    this.note = h("div.tk-note", { role: "status", "aria-live": "polite", hidden: true });
    this.fault = h("section.tk-fault", { role: "alert", hidden: true });
    this.questions = h("div", {});
    this.kernel = h("div.tk-note.tk-warning", { role: "alert", hidden: true });
    this.viaKernel = h("div.tk-note.tk-info", { hidden: true });
    const log = h("input", { type: "checkbox", onchange: () => this.set({ log: log.checked }) });
    const smooth = slider({
      class: "tk-slider", min: "0", max: "0.98", step: "0.02", value: "0", "aria-label": "Smoothing",
      oninput: () => this.set({ smoothing: Number(smooth.value) }),
    });
    this.smoothValue = h("span.tk-number", {}, "0");
    this.tools = h("div.tk-tools", { hidden: true },
      h("label.tk-tool", {}, "Smoothing", smooth, this.smoothValue),
      h("label.tk-tool", {}, log, "Log scale"));
    this.chartsBox = h("div.tk-charts", {});
    this.moreCharts = h("button.tk-quiet.tk-more-charts", { type: "button", hidden: true, onclick: () => { this.allCharts = true; this.drawCharts(); } });
    this.empty = h("div.tk-empty", { hidden: true });
    this.facts = h("div.tk-facts", {});
    this.params = h("div.tk-facts", {});
    this.rows = new Map();
    this.paramsHint = h("p.tk-about", { hidden: true });
    this.paramsBox = h("section.tk-params", { hidden: true }, h("h4", {}, "Parameters"), this.params, this.paramsHint);
    this.changes = h("ol", {});
    this.lastChange = h("span.tk-last-line", {});
    this.changesBox = h("details.tk-output.tk-changes", { hidden: true, ontoggle: () => this.drawChanges() },
      h("summary", {}, h("span", {}, "Changes"), this.lastChange), this.changes);
    this.files = h("div.tk-facts.tk-paths", {});
    this.warnings = h("ul", {});
    this.warningsBox = h("section.tk-warnings", { hidden: true, role: "status", "aria-label": "Warnings" }, this.warnings);
    this.ranks = h("div.tk-ranks", { role: "table", "aria-label": "Ranks" });
    this.ranksBox = h("section", { hidden: true }, h("h4", {}, "Ranks"), this.ranks);
    this.log = h("pre.tk-log", { tabIndex: 0, "aria-label": "Output of the job" });
    this.lastLine = h("span.tk-last-line", {});
    this.outputBox = h("details.tk-output", { hidden: true, ontoggle: () => this.drawOutput() },
      h("summary", {}, h("span", {}, "Output"), this.lastLine), this.log);
    this.body = h("div.tk-body", {},
      this.fault, this.warningsBox,
      this.tools, this.chartsBox, this.moreCharts, this.empty,
      h("div.tk-columns", {}, h("section", {}, h("h4", {}, "Run"), this.facts), this.paramsBox,
        h("section.tk-files", {}, h("h4", {}, "Files"), this.files)),
      this.ranksBox, this.changesBox, this.outputBox);
    const back = this.onBack ? h("button.tk-quiet.tk-back", { type: "button", onclick: this.onBack, "aria-label": "Back to all jobs" }, icon("back"), "All jobs") : null;
    this.element = h("section.tk-monitor", {},
      h("header.tk-head", {}, back, h("div.tk-title", {}, this.title, this.state, this.message), h("div.tk-buttons", {}, this.buttons, this.bell)),
      h("div.tk-progress", {}, this.barBox, h("div.tk-progress-line", {}, this.where, this.speed, this.percent)),
      this.questions, this.kernel, this.silence, this.note, this.viaKernel, this.body);
  }

  handle(content, buffers) {
    if (content.type === "full") {
      this.seq = content.seq;
      this.card = content.card;
      this.takeOutput(content.output);
      for (const chart of this.charts.values()) chart.drop(content.series.map((series) => series.name));
      this.take(content.series, buffers, true);
      this.draw();
    } else if (content.type === "delta") {
      if (this.card === null || content.seq !== this.seq + 1) {
        if (!this.asked || Date.now() - this.asked > 2000) {
          this.asked = Date.now();
          this.send({ type: "hello" }); // something was missed: have it all again
        }
        return;
      }
      this.seq = content.seq;
      Object.assign(this.card, content.card);
      if (content.output) this.takeOutput(content.output);
      this.take(content.series, buffers, false);
      this.draw();
    } else if (content.type === "window") {
      const found = new Map(content.series.map((series) => {
        const { x, y } = points(series, buffers);
        return [series.name, { x: Array.from(x), y: Array.from(y) }];
      }));
      for (const chart of this.charts.values()) {
        if (chart.lines.some((line) => found.has(line.key))) chart.refine(content.low, content.high, found);
      }
    } else if (content.type === "asked") {
      this.pending = null;
      if (!content.ok) this.tell(content.message, "tk-warning");
      if (!content.ok && content.action === "set") for (const row of this.rows.values()) row.forget();
      this.drawButtons();
    } else if (content.type === "trouble") {
      this.tell(content.message, "tk-warning");
    } else if (content.type === "lost") {
      this.drawLost(content.lost);
    }
  }

  take(series, buffers, anew) {
    for (const each of series) {
      const { x, y } = points(each, buffers);
      const group = this.card.groups.find(([, names]) => names.includes(each.name));
      if (!group) continue;
      const chart = this.chart(group);
      if (anew) chart.set(each.name, x, y);
      else chart.add(each.name, x, y);
      this.dirty.add(chart);
    }
    for (const group of this.card.groups) this.chart(group);
    const wanted = this.card.groups.map(([title]) => this.charts.get(title).element);
    if (wanted.some((element, i) => this.chartsBox.children[i] !== element)) this.chartsBox.append(...wanted);
  }

  chart([title, names]) {
    let chart = this.charts.get(title);
    if (!chart) {
      chart = new Chart(title, {
        sync: this.syncKey,
        peers: () => this.charts.values(),
        onWindow: (range) => range && this.send({ type: "window", names: chart.lines.map((line) => line.key), low: range[0], high: range[1] }),
      });
      chart.log = this.settings.log;
      chart.smoothing = this.settings.smoothing;
      this.charts.set(title, chart);
      this.chartsBox.append(chart.element);
    }
    const lines = names.map((name) => this.card.lines?.[name] ?? ["", "training"]);
    const looks = looksOf(lines.map(([, split]) => split));
    chart.setLines(names.map((name, i) => ({ key: name, label: lines[i][0], look: looks[i] })));
    chart.element.classList.toggle("tk-several", names.length > 2);
    return chart;
  }

  set(change) {
    Object.assign(this.settings, change);
    say(this.smoothValue, this.settings.smoothing ? this.settings.smoothing.toFixed(2) : "0");
    for (const chart of this.charts.values()) chart.look(this.settings);
  }

  draw() {
    const card = this.card;
    this.element.setAttribute("aria-label", `Job ${card.name}`);
    say(this.title, card.name);
    this.title.title = card.name;
    const silent = Boolean(card.silent_s);
    rebuild(this.state, [card.status, card.phase, silent], () => [statePill(card.status, card.phase, silent)]);
    const facts = new Map(card.facts);
    const left = facts.get("time left");
    const speed = facts.get("throughput");
    // The phase stands beside the state already.
    say(this.where, card.headline.split(" · ").filter((part) => part !== card.phase).join(" · "));
    // Of a silent job neither its speed nor what is left is known any more.
    say(this.speed, silent ? "" : card.live ? [speed, left ? `${left} left` : ""].filter(Boolean).join(" · ") : facts.has("took") ? `took ${facts.get("took")}` : "");
    const known = card.progress_known || !card.live;
    const percent = Math.min(100, Math.max(0, card.progress));
    say(this.percent, known ? `${percent.toFixed(0)} %` : "");
    this.barBox.className = `tk-bar tk-${silent ? "silent" : card.status.toLowerCase()}${known ? "" : " tk-endless"}`;
    const unknown = card.status === "QUEUED" ? 0 : 1; // what has not begun is not full
    this.bar.style.transform = `scaleX(${known ? percent / 100 : unknown})`;
    if (known) this.barBox.setAttribute("aria-valuenow", percent.toFixed(0));
    this.drawNote();
    this.drawFault(card.fault);
    this.drawButtons();
    this.drawBell();
    this.ring();
    this.drawCharts();
    const shown = card.facts.filter(([label]) => !["time left", "throughput", "took"].includes(label));
    this.pairs(this.facts, shown);
    this.drawParams();
    this.drawChanges();
    show(this.paramsBox, card.params.length > 0);
    const paths = [["model", card.model], ["checkpoint", card.checkpoint], ["folder", card.files]].filter(([, path]) => path);
    this.pairs(this.files, paths);
    rebuild(this.warnings, card.warnings, () => card.warnings.map(({ step, message, passed }) =>
      h("li", { class: passed ? "tk-passed" : null }, icon(passed ? "COMPLETED" : "UNREADABLE"),
        h("span", {}, message), step ? h("span.tk-tip-step", {}, `step ${grouped(step)}`) : null)));
    show(this.warningsBox, card.warnings.length > 0);
    this.warningsBox.classList.toggle("tk-all-passed", card.warnings.every(({ passed }) => passed));
    this.drawRanks();
    this.drawOutput();
  }

  pairs(list, pairs) {
    const labels = pairs.map(([label]) => label);
    rebuild(list, labels, () => labels.flatMap((label) => [h("span.tk-term", { role: "term", title: label }, label), h("span.tk-value-of", { role: "definition" }, h("bdi", {}))]));
    const values = list.querySelectorAll(".tk-value-of");
    pairs.forEach(([, value], i) => {
      say(values[i].firstChild, value || "–");
      values[i].title = value;
    });
  }

  // What can be changed stands as a control in the place of its value.
  drawParams() {
    const { params, controls } = this.card;
    const steered = new Map(controls.map((control) => [control.name, control]));
    const names = [...steered.keys(), ...params.map(([name]) => name).filter((name) => !steered.has(name))];
    rebuild(this.params, [names, [...steered.keys()]], () => {
      this.rows = new Map(controls.map((control) => [control.name, new ControlRow(control, (name, value) => this.change(name, value))]));
      return names.flatMap((name) => [h("span.tk-term", { role: "term", title: name }, name),
        this.rows.get(name)?.element ?? h("span.tk-value-of", { role: "definition", "data-name": name })]);
    });
    this.params.classList.toggle("tk-steered", steered.size > 0);
    for (const [name, row] of this.rows) row.update(steered.get(name));
    const values = new Map(params);
    for (const element of this.params.querySelectorAll(".tk-value-of")) {
      const value = values.get(element.dataset.name) || "–";
      say(element, value);
      element.title = value;
    }
    const others = controls.some(({ name }) => !FOLLOWED.includes(name));
    show(this.paramsHint, controls.length > 0);
    say(this.paramsHint, others ? "A change takes effect at the next step: lr and weight_decay in the optimizer, others where the code reads run.params." : "A change takes effect at the next step.");
  }

  // The slowest rank, and the one that waits for its data, are seen at a glance.
  drawRanks() {
    const { ranks } = this.card;
    show(this.ranksBox, ranks.length > 0);
    const fastest = Math.max(...ranks.map((rank) => rank.steps_per_s ?? 0), 1e-9);
    const bar = (share, text, css) => h("span.tk-rank-bar", { role: "cell" },
      h(`span.tk-rank-track.${css}`, { style: `--tk-share: ${(100 * share).toFixed(0)}%`, "aria-hidden": "true" }), h("b", {}, text));
    rebuild(this.ranks, ranks, () => [
      h("div.tk-rank.tk-rank-head", { role: "row" }, ["rank", "node", "device", "steps/s", "waits for data"].map((label) => h("span", { role: "columnheader" }, label))),
      ...ranks.map((rank) => h("div.tk-rank", { role: "row" },
        h("span", { role: "cell" }, String(rank.rank)), h("span", { role: "cell", title: rank.node }, rank.node), h("span", { role: "cell" }, rank.device ?? "–"),
        bar((rank.steps_per_s ?? 0) / fastest, rank.steps_per_s === null ? "–" : readable(rank.steps_per_s), "tk-speed-bar"),
        bar(rank.loading_share ?? 0, rank.loading_share === null ? "–" : `${(100 * rank.loading_share).toFixed(0)} %`, "tk-wait-bar"))),
    ]);
  }

  async change(name, value) {
    try {
      await this.wire.ask(this.card, "set", { [name]: value }, this.send);
    } catch (error) {
      this.tell(error.message, "tk-warning");
      throw error;
    }
  }

  drawChanges() {
    const { changes } = this.card;
    const last = changes[changes.length - 1];
    show(this.changesBox, changes.length > 0);
    say(this.lastChange, last && !this.changesBox.open ? `step ${grouped(last.step)}: ${last.text}` : "");
    rebuild(this.changes, changes, () => changes.map(({ step, text }) => h("li", {}, h("span.tk-tip-step", {}, `step ${grouped(step)}`), text)));
    for (const chart of this.charts.values()) chart.setMarks(changes);
  }

  drawBell() {
    const { live, job_id: jobId } = this.card;
    const on = bells.on(jobId);
    show(this.bell, live);
    const says = on ? "You will be told when it ends; press to be left in peace" : "Tell me when it ends: by a notification of the browser, or a note in this page";
    this.bell.setAttribute("aria-pressed", String(on));
    this.bell.setAttribute("aria-label", "Tell me when it ends");
    this.bell.title = says;
  }

  async toggleBell() {
    const { job_id: jobId } = this.card;
    bells.set(jobId, !bells.on(jobId));
    this.drawBell();
    if (bells.on(jobId) && !(await bells.allowed())) {
      this.tell("This browser shows no notifications for this page; the end will be told in the page and in its title.");
    }
  }

  // Once, when a job is seen to end, or is found ended by a page that was loaded again meanwhile.
  ring() {
    if (!this.card.live) bells.ring(this.card, this.card.status.toLowerCase());
  }

  drawNote() {
    const card = this.card;
    // In the head, where it has a place of its own: nothing below moves when it comes or goes.
    const text = card.status === "FAILED" || card.silent_s ? "" : card.status === "QUEUED" ? card.message || NOTES.QUEUED : NOTES[card.status] || card.message;
    say(this.message, text);
    this.message.title = text;
    show(this.silence, Boolean(card.silent_s));
    if (card.silent_s) {
      say(this.silence, `No sign of life for ${ago(card.silent_s)}. ${card.host ? `It runs on ${card.host}, which cannot be asked from here` : "Its machine cannot be asked from here"}: nobody can tell whether it still runs. If that is gone, job.resume(lost=True) goes on from the last checkpoint.`);
    }
    if (this.told && Date.now() - this.told < 12000) return;
    this.told = null;
    const rivals = card.rivals ?? [];
    const more = rivals.length === 1 ? `Another job named ${card.name} is still running.` : `${rivals.length} other jobs named ${card.name} are still running.`;
    this.note.className = "tk-note tk-warning tk-question";
    rebuild(this.note, [rivals.map((rival) => rival.job_id)], () => [
      rivals.length ? h("p", {}, more) : null,
      rivals.length ? h("button.tk-button", { type: "button", onclick: () => this.stopOthers(rivals) }, rivals.length === 1 ? "Stop it" : "Stop them") : null,
    ].filter(Boolean));
    show(this.note, rivals.length > 0);
  }

  stopOthers(rivals) {
    for (const rival of rivals) {
      this.wire.ask({ job_id: rival.job_id, root: this.card.root }, "stop", undefined, this.send).catch((error) => this.tell(error.message, "tk-warning"));
    }
  }

  tell(text, kind = "tk-info") {
    this.told = Date.now();
    this.note.className = `tk-note ${kind}`;
    rebuild(this.note, [text, Date.now()], () => [h("p", {}, text)]);
    show(this.note, true);
  }

  drawFault(fault) {
    // Without a traceback, for a job that was killed say, the message in the head has told all.
    const told = Boolean(fault?.traceback);
    show(this.fault, told);
    if (!told) return;
    rebuild(this.fault, fault, () => [
      h("p.tk-fault-title", {}, icon("FAILED"), h("span", {}, fault.title)),
      fault.place ? h("p.tk-fault-place", {}, fault.place) : null,
      fault.code ? h("pre.tk-fault-code", {}, fault.code) : null,
      h("details", {}, h("summary", {}, "Traceback"), h("pre.tk-log", { tabIndex: 0 }, fault.traceback)),
    ].filter(Boolean));
  }

  drawButtons() {
    const { actions, status } = this.card ?? { actions: [] };
    rebuild(this.buttons, [actions, this.pending, status], () => actions.map((action) => h(`button.tk-button.tk-do-${action.name}`, {
      type: "button",
      title: action.explains,
      disabled: this.pending === action.name,
      "aria-busy": this.pending === action.name ? "true" : null,
      onclick: () => this.ask(action),
    }, action.label)));
  }

  async ask(action, sure = action.name !== "kill") {
    if (!sure) {
      return question(this.questions, `Kill ${this.card.name}? What was not saved is lost.`, "Kill", () => this.ask(action, true));
    }
    this.pending = action.name;
    this.drawButtons();
    try {
      const told = await this.wire.ask(this.card, action.name, undefined, this.send);
      if (told === null) return; // on its way through the kernel; the answer comes as a message
    } catch (error) {
      this.tell(error.message, "tk-warning");
    }
    this.pending = null;
    this.drawButtons();
    if (this.wire.lost) this.follow();
    // A job that had ended may go on now: have the kernel look again.
    else if (action.name === "resume") for (const wait of [400, 1500, 5000]) setTimeout(() => this.send({ type: "hello" }), wait);
  }

  drawCharts() {
    const any = this.charts.size > 0;
    show(this.tools, any);
    show(this.empty, !any && this.card.status !== "FAILED");
    say(this.empty, this.card.live ? "Charts appear with the first run.log(…)" : "Nothing was logged");
    const folded = this.allCharts ? 0 : Math.max(0, this.card.groups.length - MOST_CHARTS);
    this.card.groups.forEach(([title], i) => show(this.charts.get(title).element, !folded || i < MOST_CHARTS));
    show(this.moreCharts, folded > 0);
    say(this.moreCharts, folded === 1 ? "1 more chart" : `${folded} more charts`);
    for (const chart of this.charts.values()) {
      const best = this.card.best;
      const here = best && chart.lines.some((line) => line.key === best.metric) ? best : null;
      if (JSON.stringify(here) !== JSON.stringify(chart.best)) {
        chart.best = here;
        this.dirty.add(chart);
      }
    }
    for (const chart of this.dirty) chart.draw();
    this.dirty.clear();
  }

  // Rows from a number on take the place of those that were there: a progress bar changes the last ones.
  takeOutput([from, text]) {
    const known = from > this.outputFrom && from <= this.outputFrom + this.output.length;
    const kept = known ? this.output.slice(0, from - this.outputFrom) : [];
    if (!known) this.outputFrom = from;
    this.output = [...kept, ...text.split("\n")];
    const excess = this.output.length - MOST_ROWS;
    if (excess > 0) {
      this.output.splice(0, excess);
      this.outputFrom += excess;
    }
  }

  drawOutput() {
    const lines = this.output.join("\n").trimEnd();
    show(this.outputBox, lines.length > 0);
    say(this.lastLine, this.outputBox.open ? "" : lines.slice(lines.lastIndexOf("\n") + 1));
    if (!this.outputBox.open) return;
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 24;
    say(this.log, lines);
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  // Say whether the buttons can be heard while the kernel is busy.
  async drawWays() {
    const present = await server.present();
    show(this.viaKernel, !present && Boolean(this.card?.live));
    say(this.viaKernel, "Buttons go through the kernel here: while a cell runs, they may wait until it has ended.");
  }

  live() {
    return Boolean(this.card?.live);
  }

  async drawLost(lost) {
    show(this.kernel, Boolean(lost));
    if (!lost) return clearInterval(this.following);
    const present = await server.present();
    const said = lost === "gone"
      ? "The kernel that fed this panel is gone."
      : "The kernel has said nothing for a while: it may be gone, or held up by a call that lets nothing else run.";
    const still = present ? " State and buttons go through the server meanwhile." : " What you see may be old.";
    rebuild(this.kernel, [lost, present, this.card?.job_id], () => [h("p", {}, said, still, " To have the whole panel back, run "),
      h("code", {}, `tk.attach("${this.card?.job_id ?? ""}")`)]);
    this.follow();
  }

  // Without a kernel the state can still be asked of the server.
  async follow() {
    clearInterval(this.following);
    if (!this.card || !(await server.present())) return;
    const look = async () => {
      if (!this.wire.lost || !this.element.isConnected) return clearInterval(this.following);
      const query = `status?job_id=${encodeURIComponent(this.card.job_id)}&root=${encodeURIComponent(this.card.root)}`;
      const { body } = await server.call("GET", query).catch(() => ({ body: {} }));
      if (!body.ok) return;
      this.takeRecord(body.status);
      if (!this.card.live) clearInterval(this.following);
    };
    await look();
    this.following = setInterval(look, 2000);
  }

  takeRecord(record) {
    const live = !["COMPLETED", "STOPPED", "FAILED", "INTERRUPTED"].includes(record.status);
    const where = [];
    if (record.epoch) where.push(record.epochs ? `epoch ${record.epoch}/${record.epochs}` : `epoch ${record.epoch}`);
    if (record.step) where.push(record.total_steps ? `step ${record.step}/${record.total_steps}` : `step ${record.step}`);
    Object.assign(this.card, {
      status: record.status, phase: record.phase ?? "", live, message: record.message ?? "", progress: record.progress,
      headline: where.join(" · "), facts: this.card.facts.filter(([label]) => label === "runner" || label === "best"),
    });
    if (!live) Object.assign(this.card, { actions: [], controls: [] });
    this.draw();
  }

  close() {
    clearInterval(this.following);
    for (const chart of this.charts.values()) chart.close();
  }
}
