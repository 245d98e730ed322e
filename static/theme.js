// Runs before the first paint, so that the page never flashes in the other theme.
const chosen = localStorage.getItem("theme");
const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
document.documentElement.dataset.bsTheme = chosen || preferred;
