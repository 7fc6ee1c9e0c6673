// Updates a page while the run continues. It requests the page with its ETag, and the server answers 304 where nothing changed.
// Changes are applied element by element, so that scroll position, focus and open <details> stay.

// By data-refresh: a report of a running run, a list that waits for a key, an incomplete search, a ledger that is still being read.
const SECONDS_BETWEEN = { auto: 2, ask: 2, searching: 0.1, reading: 1 };

let address = location.href;
let version = document.body.dataset.version;
let numRequests = 0; // responses to all but the last request are outdated
let offered = null; // a new page that the reader has not accepted yet
let timer = null;
let lastPushed = null; // the field that the newest history entry belongs to

function patch(now, next) {
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
    if (index < before.length) patch(before[index], child);
    else now.append(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
  if (now.nodeName === "SELECT" && now !== document.activeElement) {
    now.value = now.querySelector("option[selected]")?.value ?? now.value;
  }
}

function patchElements(page, ids) {
  for (const id of ids) {
    const [now, next] = [document.getElementById(id), page.getElementById(id)];
    if (now && next) patch(now, document.importNode(next, true));
  }
}

function show(page) {
  offered = null;
  document.getElementById("news").hidden = true;
  document.title = page.title;
  document.body.dataset.refresh = page.body.dataset.refresh;
  patchElements(page, ["state", "notices", "main"]);
  document.dispatchEvent(new Event("shown"));
}

function receive(page, isRequested) {
  version = page.body.dataset.version;
  if (isRequested || document.body.dataset.refresh !== "ask") {
    show(page);
    return;
  }
  patchElements(page, ["state", "notices"]);
  if (page.getElementById("main").innerHTML === shownHtml) return;
  offered = page;
  document.getElementById("news").hidden = false;
}

function showError(page) {
  // The form stays, so that the reader can correct it.
  const count = document.getElementById("count");
  if (!count) return show(page);
  count.textContent = page.getElementById("error").textContent;
  count.className = "stop";
}

let shownHtml = document.getElementById("main").innerHTML; // as received, before <details> were opened

async function update(isRequested) {
  const number = ++numRequests;
  clearTimeout(timer);
  try {
    const headers = isRequested ? {} : { "If-None-Match": version };
    const response = await fetch(address, { headers, cache: "no-store" });
    if (number !== numRequests) return;
    document.body.classList.remove("lost");
    if (response.status !== 304) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      if (number !== numRequests) return;
      const html = page.getElementById("main").innerHTML;
      if (response.status === 400) showError(page);
      else receive(page, isRequested);
      if (!offered) shownHtml = html;
    }
  } catch {
    if (number === numRequests) document.body.classList.add("lost"); // the server stopped or cannot be reached
  }
  if (number === numRequests) schedule();
}

function schedule() {
  clearTimeout(timer);
  timer = setTimeout(
    () => (document.hidden ? schedule() : update(false)),
    1000 * SECONDS_BETWEEN[document.body.dataset.refresh],
  );
}

function navigate(next, field) {
  address = next;
  if (field && field === lastPushed) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  lastPushed = field;
  return update(true);
}

function addressOf(form) {
  const parameters = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value !== "" && !(name === "order" && value === "newest")) parameters.append(name, value);
  }
  return new URL(`${form.getAttribute("action")}?${parameters}`.replace(/\?$/, ""), location.href).href;
}

let typing = null;
document.addEventListener("input", (event) => {
  const form = event.target.closest("#filter");
  if (!form) return;
  clearTimeout(typing);
  typing = setTimeout(() => navigate(addressOf(form), event.target), event.target.matches("input:not([type=checkbox])") ? 300 : 0);
});
document.addEventListener("submit", (event) => {
  if (event.target.id !== "filter") return;
  event.preventDefault();
  clearTimeout(typing);
  navigate(addressOf(event.target), null);
});
addEventListener("popstate", () => {
  if (location.href.split("#")[0] === address.split("#")[0]) return; // only the fragment changed
  address = location.href;
  lastPushed = null;
  document.activeElement?.blur();
  update(true);
});
document.addEventListener("visibilitychange", () => document.hidden || update(false));
document.addEventListener("show-news", () => offered && (show(offered), (shownHtml = document.getElementById("main").innerHTML)));
document.querySelector("#news button").addEventListener("click", () => document.dispatchEvent(new Event("show-news")));

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-seconds]")) {
    const seconds = Number((time.dataset.seconds = Number(time.dataset.seconds) + 1));
    const [size, unit] = seconds < 120 ? [1, "s"] : seconds < 7200 ? [60, "min"] : seconds < 172800 ? [3600, "h"] : [86400, "days"];
    time.textContent = `${Math.floor(seconds / size)} ${unit}`;
  }
}, 1000);
schedule();
