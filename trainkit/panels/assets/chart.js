// A chart of a few series over steps: hover, zoom, log scale, smoothing, the best point.

const CHART_HEIGHT = 168;
// A mark is read from so many pixels away; of marks on one spot the last few are told.
const MARK_REACH = 6;
const MOST_TIPS = 4;

// A line is known by colour and by dash, so that it is told apart without colour too.
const LOOKS = {
  training: { colour: "--tk-training", dash: null, width: 1.5 },
  validation: { colour: "--tk-validation", dash: [6, 3], width: 1.75, points: true },
  test: { colour: "--tk-green", dash: [2, 3], width: 1.75, points: true },
};
const DASHES = [null, [6, 3], [2, 3]];

// How lines look, by the rows that each shows: of several lines of the same rows, no two next to each other have one dash.
function looksOf(splits) {
  const before = new Map();
  return splits.map((split) => {
    const nth = before.get(split) ?? 0;
    before.set(split, nth + 1);
    const look = LOOKS[split];
    const first = DASHES.findIndex((dash) => String(dash) === String(look.dash));
    return nth ? { ...look, dash: DASHES[(first + nth) % DASHES.length] } : look;
  });
}

// The key of a line in a legend has the line's own dash.
function keyOf(look) {
  const kind = !look.dash ? "" : look.dash[0] > 3 ? " tk-dashed" : " tk-dotted";
  return h("span.tk-key", { style: `--tk-line: var(${look.colour})`, class: `tk-key${kind}` });
}

function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let share = 0;
  return values.map((value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return value;
    sum = weight * sum + (1 - weight) * value;
    share = weight * share + (1 - weight);
    return sum / share;
  });
}

class Chart {
  // lines: [{key, label, look: {colour, dash, width, points}}]; onWindow(low, high | null) asks for finer points.
  constructor(title, { onWindow, sync, peers = () => [this] } = {}) {
    this.title = title;
    this.onWindow = onWindow;
    this.sync = sync;
    this.peers = peers; // zoomed out together, as they are zoomed in together
    this.lines = [];
    this.data = new Map();
    this.detail = null;
    this.range = null;
    this.log = false;
    this.smoothing = 0;
    this.best = null;
    this.marks = [];
    this.held = null; // the step that the arrow keys are at; it stays while the chart grows
    this.readout = h("div.tk-readout", { "aria-live": "off" });
    this.plot = h("div.tk-plot", {
      tabIndex: 0,
      role: "img",
      onkeydown: (event) => this.key(event),
    });
    this.tip = h("div.tk-tip", { hidden: true });
    this.reset = h("button.tk-quiet", { type: "button", hidden: true, onclick: () => this.zoomOut() }, "Reset zoom");
    this.element = h("figure.tk-chart", { "aria-label": `Chart of ${title}` },
      h("figcaption", {}, h("span.tk-chart-title", {}, title), this.readout, this.reset), this.plot);
    this.resizer = new ResizeObserver(() => this.resize());
    this.resizer.observe(this.plot);
    this.offTheme = onTheme(() => this.u?.redraw(false, false));
  }

  setLines(lines) {
    const key = JSON.stringify(lines);
    if (key === this.linesKey) return;
    this.linesKey = key;
    this.lines = lines;
    this.build();
  }

  set(key, x, y) {
    this.data.set(key, { x: Array.from(x), y: Array.from(y) });
  }

  add(key, x, y) {
    const held = this.data.get(key);
    if (!held) return this.set(key, x, y);
    for (let i = 0; i < x.length; i += 1) {
      held.x.push(x[i]);
      held.y.push(y[i]);
    }
  }

  drop(keep) {
    for (const key of [...this.data.keys()]) if (!keep.includes(key)) this.data.delete(key);
  }

  options() {
    const colour = (name) => () => style(this.element, name) || "#888";
    const axis = {
      stroke: colour("--tk-muted"),
      grid: { stroke: colour("--tk-grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      labelFont: "11px system-ui, sans-serif",
    };
    const lineOf = (line, extra) => ({
      label: line.label,
      stroke: colour(line.look.colour),
      width: line.look.width ?? 1.5,
      dash: line.look.dash ?? undefined,
      spanGaps: true,
      ...extra,
    });
    const plain = this.lines.map((line) => lineOf(line, {
      points: { show: (u, index) => this.dots(u, index, line), size: 5, fill: colour(line.look.colour) },
      value: () => "",
    }));
    const faint = this.smoothing
      ? this.lines.map((line) => lineOf(line, { points: { show: false }, alpha: 0.28, width: 1, dash: undefined }))
      : [];
    return {
      width: Math.max(120, this.plot.clientWidth),
      height: CHART_HEIGHT,
      legend: { show: false },
      padding: [8, 20, 0, 0],
      cursor: {
        sync: this.sync ? { key: this.sync, setSeries: false, scales: ["x", null] } : undefined,
        drag: { x: true, y: false, setScale: false },
        points: { size: 7 },
        y: false,
      },
      select: { show: true },
      scales: {
        x: { time: false, range: (u, low, high) => this.range ?? [low, high === low ? low + 1 : high] },
        y: this.log ? { distr: 3, log: 10 } : { range: { min: { pad: 0.08 }, max: { pad: 0.08 } } },
      },
      axes: [
        { ...axis, size: 26, space: 60, values: (u, ticks) => ticks.map((tick) => (tick >= 1e5 ? readableShort(tick) : String(tick))) },
        { ...axis, size: 52, space: 32, values: (u, ticks) => ticks.map((tick) => (tick === null ? "" : readable(tick))) },
      ],
      series: [{}, ...plain, ...faint],
      hooks: {
        setCursor: [() => this.read()],
        setSelect: [(u) => {
          if (u.select.width > 4) this.zoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
        // Where a step is on the axis is known only when all is drawn: the held one is found again here.
        draw: [(u) => { this.drawBest(u); this.placeMarks(u); this.hold(u); }],
      },
    };
  }

  width() {
    return this.u?.width ?? this.plot.clientWidth;
  }

  dots(u, index, line) {
    const count = this.data.get(line.key)?.x.length ?? 0;
    return count === 1 || Boolean(line.look.points && count < this.width() / 12);
  }

  build() {
    this.u?.destroy();
    this.u = null;
    if (!this.lines.length || !this.plot.isConnected || this.plot.clientWidth < 40) return;
    this.u = new uPlot(this.options(), this.aligned(), this.plot);
    this.u.over.addEventListener("dblclick", () => this.zoomOut());
    // What moves beneath a mouse at rest is told as a move, too: by nothing.
    this.u.over.addEventListener("mousemove", (event) => { if (event.movementX || event.movementY) this.held = null; });
    this.markLines = [];
    this.u.over.append(this.tip);
    this.placeMarks(this.u);
    this.read();
  }

  aligned() {
    const tables = this.lines.map((line) => {
      const { x, y } = (this.range && this.detail?.get(line.key)) || this.data.get(line.key) || { x: [], y: [] };
      const values = this.log ? y.map((value) => (value > 0 ? value : null)) : y;
      // A line of few points, an epoch each, has no noise to smooth away; it would only lag.
      const few = line.look.points && x.length < this.width() / 12;
      return { x, y: values, smooth: few ? values : smoothed(values, this.smoothing) };
    });
    const one = tables.length === 1 || tables.every((table) => table.x.length === tables[0].x.length && table.x.every((step, i) => step === tables[0].x[i]));
    if (one) {
      const first = tables.map((table) => table.smooth);
      return [tables[0].x, ...first, ...(this.smoothing ? tables.map((table) => table.y) : [])];
    }
    return uPlot.join(tables.map((table) => [table.x, table.smooth, ...(this.smoothing ? [table.y] : [])]))
      .reduce((all, column, i, joined) => {
        if (i === 0) all[0] = column;
        else if (!this.smoothing) all.push(column);
        else all[(i % 2 === 1 ? 1 : 1 + this.lines.length) + Math.floor((i - 1) / 2)] = column;
        return all;
      }, []);
  }

  draw() {
    if (!this.u) this.build();
    else this.u.setData(this.aligned(), true);
    this.read();
  }

  hold(u) {
    if (this.held !== null) u.setCursor({ left: u.valToPos(this.held, "x"), top: 10 });
  }

  resize() {
    const width = this.plot.clientWidth;
    if (!this.u) this.build();
    else if (width >= 40 && Math.abs(width - this.u.width) > 1) this.u.setSize({ width, height: CHART_HEIGHT });
  }

  look({ log, smoothing }) {
    const rebuild = this.log !== log || Boolean(this.smoothing) !== Boolean(smoothing);
    this.log = log;
    this.smoothing = smoothing;
    if (rebuild) this.build();
    else this.draw();
  }

  zoom(range) {
    this.range = range;
    this.detail = null;
    show(this.reset, Boolean(range));
    this.draw();
    this.onWindow?.(range);
  }

  zoomOut() {
    for (const chart of this.peers()) if (chart.range) chart.zoom(null);
  }

  // Finer points for the range that is shown.
  refine(low, high, found) {
    if (!this.range || Math.abs(this.range[0] - low) > 1e-9 || Math.abs(this.range[1] - high) > 1e-9) return;
    this.detail = found;
    this.draw();
  }

  // What is under the cursor, or the last values.
  read() {
    const u = this.u;
    const at = u?.cursor.idx;
    const over = u && at !== null && at !== undefined && u.cursor.left >= 0;
    const parts = this.lines.map((line, i) => {
      const held = this.data.get(line.key);
      let value = held?.y[held.y.length - 1];
      if (over) {
        const column = u.data[i + 1];
        value = null;
        for (let back = at; back >= 0; back -= 1) {
          if (column[back] !== null && column[back] !== undefined) {
            value = column[back];
            break;
          }
        }
      }
      return { line, text: value === undefined || value === null ? "–" : readable(value) };
    });
    const step = over ? `step ${grouped(u.data[0][at])}` : "";
    rebuild(this.readout, [step, parts.map((part) => [part.line.key, part.text])], () => [
      step ? h("span.tk-at", {}, step) : null,
      ...parts.map(({ line, text }) => h("span.tk-value", {},
        keyOf(line.look), h("span.tk-line-name", {}, line.label), h("b", {}, text))),
    ].filter(Boolean));
    const marks = u ? this.readMarks(u) : [];
    const changed = marks.map((mark) => `, changed at step ${mark.step}: ${mark.text}`).join("");
    const words = parts.map(({ line, text }) => `${line.label} ${text}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.title}${step ? `, ${step}` : ""}: ${words}${changed}. Arrow keys read values, + and − zoom, Escape resets.`);
  }

  drawBest(u) {
    if (!this.best || this.best.value === null) return;
    const x = u.valToPos(this.best.step, "x", true);
    const y = u.valToPos(this.best.value, "y", true);
    const box = u.bbox;
    if (!(x >= box.left - 1 && x <= box.left + box.width + 1 && y >= box.top - 1 && y <= box.top + box.height + 1)) return;
    const c = u.ctx;
    const size = 5 * devicePixelRatio;
    c.save();
    c.beginPath();
    for (let i = 0; i < 10; i += 1) {
      const r = i % 2 ? size * 0.45 : size * 1.15;
      const angle = (Math.PI / 5) * i - Math.PI / 2;
      c.lineTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
    }
    c.closePath();
    c.fillStyle = style(this.element, "--tk-text");
    c.strokeStyle = style(this.element, "--tk-surface");
    c.lineWidth = 1.5 * devicePixelRatio;
    c.stroke();
    c.fill();
    c.restore();
  }

  // marks: [{step, text}], steps at which something was changed.
  setMarks(marks) {
    this.marks = marks;
    if (this.u) this.placeMarks(this.u);
  }

  placeMarks(u) {
    const width = u.bbox.width / devicePixelRatio; // what the page says of a cell out of sight is 0
    this.placed = this.marks
      .map((mark) => ({ ...mark, left: u.valToPos(mark.step, "x") }))
      .filter(({ left }) => left >= -0.5 && left <= width + 0.5);
    while (this.markLines.length < this.placed.length) {
      const line = h("div.tk-mark", { "aria-hidden": "true" });
      this.markLines.push(line);
      u.over.append(line);
    }
    this.markLines.forEach((line, i) => {
      const mark = this.placed[i];
      show(line, Boolean(mark));
      if (mark) line.style.transform = `translateX(${mark.left.toFixed(1)}px)`;
    });
  }

  // Say what was changed at the marks near the cursor, if this is the chart that is looked at.
  readMarks(u) {
    const looked = u.over.matches(":hover") || this.plot.matches(":focus");
    const near = looked && u.cursor.left >= 0
      ? (this.placed ?? []).filter((mark) => Math.abs(mark.left - u.cursor.left) <= MARK_REACH).slice(-MOST_TIPS) : [];
    show(this.tip, near.length > 0);
    rebuild(this.tip, near.map((mark) => [mark.step, mark.text]), () => near.map((mark) =>
      h("p", {}, h("span.tk-tip-step", {}, `step ${grouped(mark.step)}`), mark.text)));
    if (near.length) {
      const left = near[near.length - 1].left;
      const room = u.bbox.width / devicePixelRatio - this.tip.offsetWidth;
      this.tip.style.transform = `translateX(${Math.max(0, Math.min(left + 7, room)).toFixed(1)}px)`;
    }
    return near;
  }

  key(event) {
    const u = this.u;
    if (!u || !u.data[0].length) return;
    const steps = u.data[0];
    const [low, high] = [u.scales.x.min, u.scales.x.max];
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const by = (event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 10 : 1);
      const from = u.cursor.idx ?? (by > 0 ? -1 : steps.length);
      const to = Math.min(steps.length - 1, Math.max(0, from + by));
      this.held = steps[to];
      this.hold(u);
    } else if (event.key === "+" || event.key === "-") {
      const middle = u.cursor.idx !== null && u.cursor.idx !== undefined ? steps[u.cursor.idx] : (low + high) / 2;
      const half = ((high - low) / 2) * (event.key === "+" ? 0.5 : 2);
      const range = [Math.max(steps[0], middle - half), Math.min(steps[steps.length - 1], middle + half)];
      this.zoom(range[1] - range[0] >= steps[steps.length - 1] - steps[0] && !this.range ? null : range);
    } else if (event.key === "Escape" || event.key === "0") {
      this.held = null;
      this.zoomOut();
      u.setCursor({ left: -10, top: -10 });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  close() {
    this.resizer.disconnect();
    this.offTheme();
    this.u?.destroy();
    this.u = null;
  }
}

function readableShort(value) {
  if (value >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  return `${Number((value / 1e3).toPrecision(3))}k`;
}
