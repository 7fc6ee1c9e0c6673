// Keyboard shortcuts, and highlights of the searched text in the programs of a group.

const rows = () => [...document.querySelectorAll("a.row, article.completion")];

function move(by) {
  const all = rows();
  const now = all.indexOf(document.activeElement.closest("a.row, article.completion"));
  const next = all[Math.min(all.length - 1, Math.max(0, now < 0 ? 0 : now + by))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  n: () => document.querySelector("a[rel=next]")?.click(),
  p: () => document.querySelector("a[rel=prev]")?.click(),
  u: () => document.querySelector(".group") && (location.href = sessionStorage.list ?? document.querySelector("a[rel=up]").href),
  r: () => document.dispatchEvent(new Event("show-news")),
  "/": search,
  "?": () => document.getElementById("keys").showModal(),
};

function search() {
  const field = document.querySelector("#filter input[type=search]");
  if (!field) location.href = "completions";
  field?.focus();
  field?.select();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.addEventListener("click", (event) => {
  if (event.target.closest("a.row")) sessionStorage.list = location.href; // the target of the key u
});

function highlightMatches() {
  const needle = document.querySelector(".group")?.dataset.needle.toLowerCase();
  if (!CSS.highlights) return;
  CSS.highlights.clear();
  if (!needle) return;
  const ranges = [];
  for (const program of document.querySelectorAll("pre.program")) {
    const nodes = [];
    const walk = document.createTreeWalker(program, NodeFilter.SHOW_TEXT);
    let text = "";
    while (walk.nextNode()) {
      nodes.push([text.length, walk.currentNode]);
      text += walk.currentNode.nodeValue;
    }
    const lower = text.toLowerCase();
    const place = (offset) => {
      const [start, node] = nodes.findLast(([from]) => from <= offset);
      return [node, Math.min(offset - start, node.nodeValue.length)];
    };
    for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, at + needle.length)) {
      const range = new Range();
      range.setStart(...place(at));
      range.setEnd(...place(at + needle.length));
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

document.addEventListener("shown", highlightMatches);
highlightMatches();
