// "Tell me when it ends": a notification of the browser; where it is not allowed, a note in the page and its title.

const TITLE_EVERY_MS = 1200;
const TOAST_MS = 20000;

const bells = {
  key: (jobId) => `trainkit:bell:${jobId}`,
  // Kept by the browser: a page that is loaded again still tells.
  on(jobId) {
    try {
      return localStorage.getItem(bells.key(jobId)) !== null;
    } catch {
      return bells.here.has(jobId);
    }
  },
  set(jobId, on) {
    if (on) bells.here.add(jobId);
    else bells.here.delete(jobId);
    try {
      if (on) localStorage.setItem(bells.key(jobId), "1");
      else localStorage.removeItem(bells.key(jobId));
    } catch {
      // storage is forbidden here: this page alone remembers
    }
  },
  here: new Set(),
  // Whether the browser lets us notify; asks its user the first time.
  async allowed() {
    if (typeof Notification === "undefined") return false;
    if (Notification.permission === "default") await Notification.requestPermission();
    return Notification.permission === "granted";
  },
  // Tell of a job that has ended, once, however many panels show it.
  ring(card, tone) {
    if (!bells.on(card.job_id)) return;
    bells.set(card.job_id, false);
    const state = card.status.charAt(0) + card.status.slice(1).toLowerCase();
    const title = `${card.name}: ${state.toLowerCase()}`;
    const body = [card.headline, card.message].filter(Boolean).join(" · ");
    if (typeof Notification !== "undefined" && Notification.permission === "granted") {
      try {
        const notification = new Notification(title, { body, tag: card.job_id });
        notification.onclick = () => window.focus();
        return;
      } catch {
        // some browsers allow notifications to service workers only: tell in the page
      }
    }
    toast(title, body, tone);
    flashTitle(title);
  },
};

function toast(title, body, tone) {
  let box = document.querySelector(".tk-toasts");
  if (!box) document.body.append(box = h("div.tk-toasts", { role: "status", "aria-live": "assertive" }));
  const close = () => element.remove();
  const element = h(`div.tk-panel.tk-toast.tk-${tone}`, {},
    h("div", {}, h("p.tk-toast-title", {}, icon(tone.toUpperCase()), h("span", {}, title)), body ? h("p.tk-toast-body", {}, body) : null),
    h("button.tk-quiet", { type: "button", "aria-label": "Close", onclick: close }, icon("FAILED")));
  box.append(element);
  setTimeout(close, TOAST_MS);
}

// In the title of the page until somebody looks at it.
function flashTitle(text) {
  if (document.visibilityState === "visible" && document.hasFocus()) return;
  const before = document.title;
  const words = `● ${text}`;
  document.title = words;
  const timer = setInterval(() => { document.title = document.title === words ? before : words; }, TITLE_EVERY_MS);
  const seen = () => {
    clearInterval(timer);
    if (document.title === words) document.title = before;
    window.removeEventListener("focus", seen);
    document.removeEventListener("visibilitychange", seen);
  };
  window.addEventListener("focus", seen);
  document.addEventListener("visibilitychange", seen);
}
