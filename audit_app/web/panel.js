// Shows markup from the server and changes only what differs, so that images do not flicker when they are redrawn.
function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName;
}

function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, i) => {
    if (i >= before.length) old.appendChild(node);
    else if (same(before[i], node)) morph(before[i], node);
    else old.replaceChild(node, before[i]);
  });
  before.slice(after.length).forEach((node) => node.remove());
}

// The theme is the visitor's choice in Streamlit, which may differ from that of the system.
function isDark(parentElement) {
  const paper = getComputedStyle(parentElement.host ?? parentElement).getPropertyValue("--st-background-color").trim();
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = paper || "#fff";
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return r + g + b < 384;
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".panel");
  const fresh = document.createElement("div");
  fresh.className = isDark(parentElement) ? "panel dark" : "panel";
  fresh.innerHTML = data.markup;
  morph(root, fresh);
  if (data.scrollTo && !root.scrolledTo) {
    root.scrolledTo = true;
    root.scrollIntoView({ block: "start", behavior: "smooth" });
  }
}
