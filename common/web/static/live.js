// Brings a page's live part up to date. Without this script the page shows the same when it is loaded again.
"use strict";
const every = 5000;
async function refresh() {
  const live = document.querySelector("[data-live]");
  if (live && !document.hidden && !live.contains(document.activeElement)) {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const newer = page.querySelector("[data-live]");
        if (newer && newer.innerHTML !== live.innerHTML) live.replaceWith(document.adoptNode(newer));
      }
    } catch { /* The console has ended or is busy: what is shown stays. */ }
  }
  setTimeout(refresh, every);
}
setTimeout(refresh, every);
