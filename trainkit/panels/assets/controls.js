// A slider with a number field for each numeric parameter of a running job.

const NOTCHES = 100;
// The keys of a slider that is held down ask for one change, not for thirty.
const SETTLED_MS = 350;

function toPlace(control, value) {
  if (control.log) {
    if (value <= control.low) return 0;
    return Math.min(NOTCHES, (NOTCHES * Math.log(value / control.low)) / Math.log(control.high / control.low));
  }
  return Math.min(NOTCHES, Math.max(0, (NOTCHES * (value - control.low)) / (control.high - control.low)));
}

function fromPlace(control, place) {
  if (control.log && control.zero && place === 0) return 0;
  const share = place / NOTCHES;
  const value = control.log ? control.low * (control.high / control.low) ** share : control.low + (control.high - control.low) * share;
  // Two digits are what a hand can aim at.
  return control.whole ? Math.round(value) : Number(value.toPrecision(2));
}

function written(value) {
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential().replace("e-0", "e-") : String(value);
}

// The number that somebody typed, or null.
function numberIn(text, whole) {
  const plain = text.trim().replace(",", ".");
  const value = Number(plain);
  return plain === "" || !Number.isFinite(value) || (whole && !Number.isInteger(value)) ? null : value;
}

class ControlRow {
  // ask(name, value): resolves when the wish is with the job, or throws.
  constructor(control, ask) {
    this.ask = ask;
    this.control = control;
    this.wish = null; // asked for, not yet taken over by the job
    this.held = false;
    this.slider = slider({
      class: "tk-control-slider", min: "0", max: String(NOTCHES), step: "1", "aria-label": `${control.name}, slider`,
      oninput: () => this.move(),
      onchange: () => this.settle(),
    });
    this.field = h("input.tk-input.tk-control-field", {
      type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", "aria-label": control.name,
      onfocus: () => this.field.select(),
      onchange: () => this.type(),
      onkeydown: (event) => this.key(event),
      onblur: () => this.draw(),
    });
    this.element = h("div.tk-control", {}, this.slider, this.field);
    this.draw();
  }

  update(control) {
    this.control = control;
    if (this.wish !== null && control.value === this.wish) this.wish = null;
    this.draw();
  }

  // The wish was refused, or never reached the job.
  forget() {
    this.wish = null;
    this.draw();
  }

  shown() {
    return this.wish ?? this.control.value;
  }

  draw() {
    const waits = this.wish !== null;
    this.element.classList.toggle("tk-waits", waits);
    this.element.title = waits ? "Asked for; counts from the next step" : `Drag, or type: ${this.control.name} changes while the job runs`;
    if (this.held) return;
    const value = this.shown();
    this.slider.value = String(Math.round(toPlace(this.control, value)));
    fill(this.slider);
    this.slider.setAttribute("aria-valuetext", written(value));
    // What somebody is typing stays, and so does what was said of it.
    if (document.activeElement === this.field && this.field.value !== "") return;
    this.field.value = written(value);
    this.field.removeAttribute("aria-invalid");
  }

  move() {
    const value = fromPlace(this.control, Number(this.slider.value));
    this.held = true;
    this.field.value = written(value);
    fill(this.slider);
    this.slider.setAttribute("aria-valuetext", written(value));
  }

  settle() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      this.held = false;
      this.set(fromPlace(this.control, Number(this.slider.value)));
    }, SETTLED_MS);
  }

  type() {
    const value = numberIn(this.field.value, this.control.whole);
    if (value === null) {
      this.field.setAttribute("aria-invalid", "true");
      this.field.title = this.control.whole ? "A whole number is expected" : "A number is expected";
      return;
    }
    this.field.title = "";
    this.field.removeAttribute("aria-invalid");
    this.set(value);
  }

  key(event) {
    event.stopPropagation(); // the notebook has keys of its own
    if (event.key === "Enter") this.type();
    else if (event.key === "Escape") {
      this.field.value = "";
      this.draw();
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const by = event.key === "ArrowUp" ? 1 : -1;
      this.slider.value = String(Number(this.slider.value) + by);
      this.move();
      this.settle();
      event.preventDefault();
    }
  }

  set(value) {
    if (value === this.shown()) return this.draw();
    this.wish = value;
    this.draw();
    this.ask(this.control.name, value).catch(() => this.forget());
  }
}
