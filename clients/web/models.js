// The choice of a model and a scale, filled with what the service has.

import { call } from "./service.js";
import { element } from "./dom.js";

/** Asks the service. Throws: ServiceError. */
export async function loadModels() {
  return (await (await call("v1/models")).json()).models;
}

/** Fills two <select>s; scales that the chosen model lacks cannot be chosen. */
export function offer(models, modelSelect, scaleSelect) {
  const chosen = modelSelect.value;
  const names = [...new Set(models.map(({ name }) => name))];
  const options = [element("option", "auto: the best in real time", { value: "auto" })];
  modelSelect.replaceChildren(...options, ...names.map((name) => element("option", labelOf(name, models), { value: name })));
  modelSelect.value = names.includes(chosen) ? chosen : "auto";
  const limit = () => {
    const scales = models.filter(({ name }) => modelSelect.value === "auto" || name === modelSelect.value).map(({ scale }) => scale);
    for (const option of scaleSelect.options) option.disabled = !scales.includes(Number(option.value));
    if (scales.length && scaleSelect.selectedOptions[0].disabled) scaleSelect.value = String(Math.max(...scales));
  };
  modelSelect.onchange = limit; // in the place of the one for the models that there were before
  limit();
}

function labelOf(name, models) {
  const psnr = models.find((model) => model.name === name && model.scale === 4)?.psnr_y?.set5;
  return psnr ? `${name} (${psnr.toFixed(1)} dB)` : name;
}
