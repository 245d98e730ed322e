// What the pages need beyond HTML: local times, live pages, ticks, and a few small conveniences.

const LEAST_MS_BETWEEN_REFRESHES = 500;
const POLL_MS = 5000;

const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
const dayOfAnotherYear = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function said(at, now) {
  if (at.toDateString() === now.toDateString()) return `today ${clock.format(at)}`;
  return (at.getFullYear() === now.getFullYear() ? day : dayOfAnotherYear).format(at);
}

function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.title = at.toString();
    element.textContent = said(at, new Date());
  }
  for (const option of root.querySelectorAll("select[name$=-point] option")) {
    option.textContent = option.textContent.replace(/(\S+) (\S+) UTC/, (_, date, time) => exact.format(new Date(`${date}T${time}Z`)));
  }
}

// A live page fetches its changing part again whenever the server says that something happened, at most twice a
// second; while no stream can be had, every five seconds.
function follow(live) {
  let source = null;
  let due = null;
  let last = 0;

  const isFinal = () => live.querySelector("[data-final]") !== null;
  const refresh = () => {
    due = null;
    last = Date.now();
    // Whoever types in the part that changes is not interrupted.
    if (live.querySelector("input:focus")) soon();
    else window.htmx.trigger(live, "refresh");
  };
  const soon = () => {
    due ??= setTimeout(refresh, Math.max(0, LEAST_MS_BETWEEN_REFRESHES - (Date.now() - last)));
  };
  const open = () => {
    source = new EventSource(live.dataset.stream);
    source.addEventListener("changed", soon);
    source.addEventListener("end", () => { source.close(); soon(); });
  };
  const streaming = () => source !== null && source.readyState === EventSource.OPEN;
  const poll = setInterval(() => {
    if (document.hidden || streaming()) return;
    refresh();
    // A browser gives a stream up for good when it is answered with an error.
    if (source !== null && source.readyState === EventSource.CLOSED) open();
  }, POLL_MS);

  const summary = document.getElementById("live-summary");
  live.addEventListener("htmx:afterSwap", () => {
    const told = live.querySelector("[data-summary]")?.dataset.summary ?? "";
    if (summary && summary.textContent !== told) summary.textContent = told;
    if (!isFinal()) return;
    clearInterval(poll);
    source?.close();
  });

  if (isFinal()) clearInterval(poll);
  else if (live.dataset.stream) open();
}

function ticks(form) {
  const boxes = () => [...form.querySelectorAll("input[type=checkbox][name]")];
  const groupOf = (box) => [...(document.getElementById(box.dataset.tickGroup)?.querySelectorAll("input[name=vm]") ?? [])];
  const all = form.querySelector("[data-tick-all]");
  const count = form.querySelector("[data-tick-count]");
  const heads = [...form.querySelectorAll("[data-tick-group]")];
  const whole = (head) => head.name === "vapp" && head.checked;

  const show = () => {
    const within = new Set(heads.filter(whole).flatMap(groupOf));
    const ticked = boxes().filter((box) => box.checked && !within.has(box));
    for (const button of form.querySelectorAll("[data-needs-tick]")) button.disabled = ticked.length === 0;
    if (count) count.textContent = ticked.length ? `${ticked.length} ticked` : "Nothing ticked";
    for (const head of heads) {
      const some = groupOf(head).some((box) => box.checked);
      const every = groupOf(head).length > 0 && groupOf(head).every((box) => box.checked);
      head.indeterminate = some && !every && !head.checked;
    }
    if (all) all.checked = boxes().length > 0 && boxes().every((box) => box.checked);
  };
  form.addEventListener("change", ({ target }) => {
    if (target === all) for (const box of [...boxes(), ...heads]) box.checked = all.checked;
    if (target.dataset.tickGroup) for (const box of groupOf(target)) box.checked = target.checked;
    if (target.name === "vm" && !target.checked) {
      for (const head of heads) if (groupOf(head).includes(target)) head.checked = false;
    }
    show();
  });
  keepTicks(form, boxes, show);
  show();
}

// After an error the user finds his ticks as he left them.
function keepTicks(form, boxes, show) {
  const key = `ticks ${location.pathname}`;
  form.addEventListener("submit", () => {
    sessionStorage.setItem(key, JSON.stringify(boxes().filter((box) => box.checked).map((box) => box.value)));
  });
  const kept = new Set(JSON.parse(sessionStorage.getItem(key) ?? "[]"));
  sessionStorage.removeItem(key);
  if (document.querySelector(".notice-error")) for (const box of boxes()) box.checked = kept.has(box.value);
  window.addEventListener("pageshow", show);
}

function twists(root) {
  for (const button of root.querySelectorAll(".twist")) {
    button.addEventListener("click", () => {
      const opened = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!opened));
      document.getElementById(button.getAttribute("aria-controls")).hidden = opened;
    });
  }
}

// Fields that only matter for one of several choices are shown with it.
function shownFor(form, name, attribute) {
  const show = () => {
    const chosen = form.elements[name]?.value;
    for (const part of form.querySelectorAll(`[${attribute}]`)) {
      part.hidden = !part.getAttribute(attribute).split(" ").includes(chosen);
    }
  };
  form.addEventListener("change", show);
  show();
}

function theme() {
  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    const next = document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark";
    document.documentElement.dataset.bsTheme = next;
    localStorage.setItem("theme", next);
  });
}

function confirmations() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-confirm]");
    if (button && !window.confirm(button.dataset.confirm)) event.preventDefault();
  });
}

function copies() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
      button.querySelector("[data-copy-label]").textContent = "Copied";
    });
  }
}

function browserTimeZone(form) {
  const zone = form.querySelector("select[name=time_zone]");
  const mine = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const isNew = form.querySelector("input[name=name]")?.value === "";
  if (zone && isNew && [...zone.options].some((option) => option.value === mine)) {
    zone.value = mine;
    zone.dispatchEvent(new Event("change", { bubbles: true }));
  }
}

localTimes(document);
document.addEventListener("htmx:load", (event) => localTimes(event.detail.elt));
theme();
confirmations();
copies();
twists(document);
document.querySelectorAll("[data-keep-ticks]").forEach(ticks);
const planForm = document.getElementById("plan-form");
if (planForm) {
  shownFor(planForm, "frequency", "data-shown-for");
  shownFor(planForm, "month_on", "data-shown-for-month");
  browserTimeZone(planForm);
}
const recoverForm = document.getElementById("recover-form");
if (recoverForm) shownFor(recoverForm, "mode", "data-shown-for-mode");
const live = document.getElementById("live");
if (live) follow(live);
