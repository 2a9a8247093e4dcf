// Light or dark, copying, and going back: all that the pages need beside htmx.
"use strict";
(() => {
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const theme = stored();
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  const copied = (button) => {
    const before = button.textContent;
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = before; }, 1500);
  };

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const button = event.target.closest("[data-theme-switch], [data-copy], [data-back]");
    if (!button) return;
    if (button.hasAttribute("data-theme-switch")) {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it lasts until the page is left */ }
    } else if (button.hasAttribute("data-copy")) {
      navigator.clipboard?.writeText(button.dataset.copy).then(() => copied(button), () => {});
    } else if (history.length > 1) {
      event.preventDefault();
      history.back();
    }
  });
})();
