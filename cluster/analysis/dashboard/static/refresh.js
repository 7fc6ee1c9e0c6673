// Keeps a page up with the run. A page is asked for again under its version, and the server says whether there is another one.
// What is new is put in place element by element, so that the scroll, the focus and what is unfolded stay as they are.

// By what the page is: of a run that goes on, a list that somebody reads, a search that is not complete, a ledger that is being read.
const SECONDS_BETWEEN = { auto: 2, ask: 2, searching: 0.1, reading: 1 };

let address = location.href;
let version = document.body.dataset.version;
let asked = 0; // requests so far: an answer to any but the last is too late
let waiting = null; // a page that is offered
let timer = null;
let lastPushed = null; // the field whose state the newest entry of the history is

function replaceWith(now, next) {
  if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || now.id !== next.id) {
    now.replaceWith(next);
    return;
  }
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue !== next.nodeValue) now.nodeValue = next.nodeValue;
    return;
  }
  if (now.isEqualNode(next)) return;
  const isField = now.matches("input, select, textarea");
  for (const { name, value } of [...next.attributes]) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
  for (const { name } of [...now.attributes]) {
    if (!next.hasAttribute(name) && !(name === "open" && now.nodeName === "DETAILS")) now.removeAttribute(name);
  }
  if (isField && now !== document.activeElement) {
    if (now.type === "checkbox") now.checked = next.hasAttribute("checked");
    else if (now.nodeName === "INPUT") now.value = next.getAttribute("value") ?? "";
  }
  const before = [...now.childNodes];
  const after = [...next.childNodes];
  after.forEach((child, index) => {
    if (index < before.length) replaceWith(before[index], child);
    else now.append(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
  if (now.nodeName === "SELECT" && now !== document.activeElement) {
    now.value = now.querySelector("option[selected]")?.value ?? now.value;
  }
}

function put(page, names) {
  for (const name of names) {
    const [now, next] = [document.getElementById(name), page.getElementById(name)];
    if (now && next) replaceWith(now, document.importNode(next, true));
  }
}

function show(page) {
  waiting = null;
  document.getElementById("news").hidden = true;
  document.title = page.title;
  document.body.dataset.refresh = page.body.dataset.refresh;
  put(page, ["state", "notices", "main"]);
  document.dispatchEvent(new Event("shown"));
}

function take(page, isAsked) {
  version = page.body.dataset.version;
  if (isAsked || document.body.dataset.refresh !== "ask") {
    show(page);
    return;
  }
  put(page, ["state", "notices"]);
  if (page.getElementById("main").innerHTML === shownHtml) return;
  waiting = page;
  document.getElementById("news").hidden = false;
}

function refuse(page) {
  // The form stays as it is, to be put right.
  const told = document.getElementById("told");
  if (!told) return show(page);
  told.textContent = page.getElementById("refused").textContent;
  told.className = "stop";
}

let shownHtml = document.getElementById("main").innerHTML; // as it came, before anything was unfolded

async function ask(isAsked) {
  const number = ++asked;
  clearTimeout(timer);
  try {
    const headers = isAsked ? {} : { "If-None-Match": version };
    const answer = await fetch(address, { headers, cache: "no-store" });
    if (number !== asked) return;
    document.body.classList.remove("lost");
    if (answer.status !== 304) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (number !== asked) return;
      const html = page.getElementById("main").innerHTML;
      if (answer.status === 400) refuse(page);
      else take(page, isAsked);
      if (!waiting) shownHtml = html;
    }
  } catch {
    if (number === asked) document.body.classList.add("lost"); // the server has ended, or cannot be reached
  }
  if (number === asked) wait();
}

function wait() {
  clearTimeout(timer);
  timer = setTimeout(
    () => (document.hidden ? wait() : ask(false)),
    1000 * SECONDS_BETWEEN[document.body.dataset.refresh],
  );
}

function go(next, field) {
  address = next;
  if (field && field === lastPushed) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  lastPushed = field;
  return ask(true);
}

function addressOf(form) {
  const told = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value !== "" && !(name === "order" && value === "newest")) told.append(name, value);
  }
  return new URL(`${form.getAttribute("action")}?${told}`.replace(/\?$/, ""), location.href).href;
}

let typing = null;
document.addEventListener("input", (event) => {
  const form = event.target.closest("#filter");
  if (!form) return;
  clearTimeout(typing);
  typing = setTimeout(() => go(addressOf(form), event.target), event.target.matches("input:not([type=checkbox])") ? 300 : 0);
});
document.addEventListener("submit", (event) => {
  if (event.target.id !== "filter") return;
  event.preventDefault();
  clearTimeout(typing);
  go(addressOf(event.target), null);
});
addEventListener("popstate", () => {
  if (location.href.split("#")[0] === address.split("#")[0]) return; // a jump within the page
  address = location.href;
  lastPushed = null;
  document.activeElement?.blur();
  ask(true);
});
document.addEventListener("visibilitychange", () => document.hidden || ask(false));
document.addEventListener("show-news", () => waiting && (show(waiting), (shownHtml = document.getElementById("main").innerHTML)));
document.querySelector("#news button").addEventListener("click", () => document.dispatchEvent(new Event("show-news")));

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-seconds]")) {
    const seconds = Number((time.dataset.seconds = Number(time.dataset.seconds) + 1));
    const [size, unit] = seconds < 120 ? [1, "s"] : seconds < 7200 ? [60, "min"] : seconds < 172800 ? [3600, "h"] : [86400, "days"];
    time.textContent = `${Math.floor(seconds / size)} ${unit}`;
  }
}, 1000);
wait();
