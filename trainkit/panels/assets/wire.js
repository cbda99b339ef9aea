// The two ways to a job: the server extension over HTTP, which works while the kernel is busy, and the kernel's comm.

const TICK_MS = 5000;
const HERE_EVERY_TICKS = 4;
// The kernel says something every 4 s, however little there is to say.
const SILENT_AFTER_TICKS = 3;

const server = {
  config() {
    try {
      return JSON.parse(document.getElementById("jupyter-config-data")?.textContent || "{}");
    } catch {
      return {};
    }
  },
  base() {
    return server.config().baseUrl || document.body.dataset.baseUrl || "/";
  },
  headers() {
    const xsrf = document.cookie.match(/(?:^|;\s*)_xsrf=([^;]*)/)?.[1] ?? "";
    const token = server.config().token;
    const headers = { "Content-Type": "application/json", "X-XSRFToken": xsrf };
    if (token) headers.Authorization = `token ${token}`;
    return headers;
  },
  // Whether the extension is there; asked once per page.
  present() {
    server.answer ??= fetch(`${server.base()}health`, { credentials: "same-origin", signal: AbortSignal.timeout(5000) })
      .then((response) => (response.ok ? response.json() : null))
      .then((found) => found?.service === "trainkit")
      .catch(() => false);
    return server.answer;
  },
  // Resolves to {status, body}; body.ok tells whether it was done.
  async call(method, path, body) {
    const response = await fetch(`${server.base()}api/train/${path}`, {
      method,
      credentials: "same-origin",
      headers: server.headers(),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(15000),
    });
    const told = await response.json().catch(() => ({}));
    return { status: response.status, body: told };
  },
};

// One panel's connection to its kernel.
class Wire {
  // expects(): whether the kernel should be heard of regularly now.
  constructor(model) {
    this.model = model;
    this.handlers = new Set();
    this.expects = () => true;
    this.lost = null; // "gone", "silent" or null
    this.quiet = 0;
    this.ticks = 0;
    this.onMessage = (content, buffers) => {
      this.quiet = 0;
      this.setLost(null);
      if (content.type === "alive") return;
      for (const handler of this.handlers) handler(content, buffers ?? []);
    };
    // The widget manager says so once, when the kernel is restarted or shut down.
    this.onGone = () => this.setLost("gone");
    model.on("msg:custom", this.onMessage);
    model.on("comm_live_update", this.onGone);
    model.on("comm:close", this.onGone);
    this.timer = setInterval(() => this.tick(), TICK_MS);
  }
  tick() {
    this.ticks += 1;
    this.quiet += 1; // ticks, not time: a laptop that slept has not been listening
    if (this.ticks % HERE_EVERY_TICKS === 0) this.send({ type: "here" });
    if (!this.lost && this.quiet > SILENT_AFTER_TICKS && this.expects()) this.setLost("silent");
  }
  setLost(lost) {
    if (this.lost === lost) return;
    this.lost = lost;
    for (const handler of this.handlers) handler({ type: "lost", lost }, []);
  }
  on(handler) {
    this.handlers.add(handler);
    return () => this.handlers.delete(handler);
  }
  send(content) {
    if (this.lost === "gone") return false;
    try {
      this.model.send(content);
      return true;
    } catch {
      this.setLost("gone");
      return false;
    }
  }
  // Ask a job for something: by HTTP if it can be reached, else through the kernel.
  // Resolves to a message, or throws an Error that says what to do.
  // send: for a job that is shown within another panel.
  async ask(card, action, params, send = (message) => this.send(message)) {
    if (await server.present()) {
      let answer;
      try {
        const body = { job_id: card.job_id, root: card.root, ...(params ? { params } : {}) };
        answer = action === "delete"
          ? await server.call("DELETE", `jobs/${card.job_id}?root=${encodeURIComponent(card.root)}`)
          : await server.call("POST", action, body);
      } catch {
        server.answer = undefined; // the server went away: ask again next time
        answer = { status: 0, body: {} };
      }
      if (answer.body.ok) return answer.body.message ?? "";
      const refused = [409, 422, 429].includes(answer.status);
      if (refused || (this.lost && answer.body.error)) throw new Error(answer.body.error.message);
    }
    if (send({ type: "ask", action, job_id: card.job_id, params })) return null;
    throw new Error("Neither the kernel nor the server extension can be reached.");
  }
  close() {
    clearInterval(this.timer);
    this.model.off("msg:custom", this.onMessage);
    this.model.off("comm_live_update", this.onGone);
    this.model.off("comm:close", this.onGone);
    this.handlers.clear();
  }
}

// Buffers arrive as DataViews that need not be aligned.
function numbers(kind, buffer) {
  if (buffer instanceof ArrayBuffer) return new kind(buffer);
  return new kind(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
}

function points(series, buffers) {
  return { x: numbers(Float64Array, buffers[series.at]), y: numbers(Float32Array, buffers[series.at + 1]) };
}
