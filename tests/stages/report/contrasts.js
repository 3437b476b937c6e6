// The texts that are seen and have too little contrast with what is behind them: WCAG 2.2, 1.4.3.
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return { rgb: [red, green, blue], alpha: alpha / 255 };
  };
  const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((one) => linear(one / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const { rgb, alpha } = parse(getComputedStyle(element).backgroundColor);
    if (alpha === 1) return rgb;
    const below = behind(element.parentElement);
    return rgb.map((one, place) => one * alpha + below[place] * (1 - alpha));
  };
  const faint = new Set();
  for (const element of document.querySelectorAll("main *, header *")) {
    const speaks = [...element.childNodes].some((one) => one.nodeType === Node.TEXT_NODE && one.data.trim());
    const drawn = !element.closest("script, style, title, .quiet") && element.checkVisibility();
    if (!speaks || !drawn) continue;
    const style = getComputedStyle(element);
    const text = parse(element.closest("svg") ? style.fill : style.color).rgb;
    const [light, dark] = [luminance(text), luminance(behind(element))].sort((one, two) => two - one);
    if ((light + 0.05) / (dark + 0.05) < 4.5) faint.add(`${element.tagName}: ${element.textContent.trim().slice(0, 40)}`);
  }
  return [...faint];
})()
