// The two ways to a job: the server extension over HTTP, which works while the kernel is busy, and the kernel's comm.

const HERE_EVERY_MS = 20000;
const SILENT_AFTER_MS = 15000;

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
  constructor(model) {
    this.model = model;
    this.handlers = new Set();
    this.lost = false;
    this.heardAt = Date.now();
    this.onMessage = (content, buffers) => {
      this.heardAt = Date.now();
      this.setLost(false);
      for (const handler of this.handlers) handler(content, buffers ?? []);
    };
    this.onLive = () => {
      if (model.comm_live === false || this.disconnected()) this.setLost(true);
    };
    model.on("msg:custom", this.onMessage);
    model.on("comm_live_update", this.onLive);
    model.on("comm:close", this.onLive);
    this.timer = setInterval(() => this.send({ type: "here" }), HERE_EVERY_MS);
  }
  disconnected() {
    return Boolean(this.element?.closest(".jupyter-widgets-disconnected"));
  }
  // Watch the class by which the widget manager marks views whose kernel is gone.
  watch(element) {
    this.element = element;
    this.observer = new MutationObserver(() => this.disconnected() && this.setLost(true));
    let node = element;
    for (let depth = 0; node && depth < 4; depth += 1, node = node.parentElement) {
      this.observer.observe(node, { attributes: true, attributeFilter: ["class"] });
    }
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
    if (this.lost) return false;
    try {
      this.model.send(content);
      return true;
    } catch {
      this.setLost(true);
      return false;
    }
  }
  // Ask a job for something: by HTTP if it can be reached, else through the kernel.
  // Resolves to a message, or throws an Error that says what to do.
  async ask(card, action, params) {
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
    if (this.send({ type: "ask", action, job_id: card.job_id, params })) return null;
    throw new Error("Neither the kernel nor the server extension can be reached.");
  }
  close() {
    clearInterval(this.timer);
    this.observer?.disconnect();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("comm_live_update", this.onLive);
    this.model.off("comm:close", this.onLive);
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
