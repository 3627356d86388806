// The dashboard's part of the server's HTTP interface. Every function throws ApiError.

import { ApiError, request, serverEvents } from "../../static/api.js";
import { byId } from "../../static/dom.js";

const segment = encodeURIComponent;

async function ask(path, options) {
  return (await request(`dashboard/${path}`, options)).json();
}

/** Pairs as a query; a list gives its name once for each entry, null is left out. */
function query(values) {
  const pairs = Object.entries(values).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).filter((each) => each !== null).map((each) => [name, each]),
  );
  return new URLSearchParams(pairs);
}

export const getState = () => ask("state");
export const getRuns = async (signal) => (await ask("runs", { signal })).runs;
export const getRun = (id) => ask(`runs/${segment(id)}`);
export const getDifferences = async (id, other) => (await ask(`runs/${segment(id)}/diff?${query({ other })}`)).differs;
export const getCurves = async (values, signal) => (await ask(`curves?${query(values)}`, { signal })).series;
export const getModels = async () => (await ask("models")).models;
export const getForms = async () => (await ask("forms")).forms;
export const getFiles = async () => (await ask("files")).files;
export const getJobs = () => ask("jobs");
export const getLog = async (id, tail) => (await ask(`jobs/${segment(id)}/log?${query({ tail })}`)).text;

/** What the runs write from now on, as events. */
export async function follow(values, signal) {
  return serverEvents(await request(`dashboard/follow?${query(values)}`, { signal }));
}

const post = (path, body = {}, signal = null) => ask(path, { method: "POST", body, signal });
export const check = (stage, values, signal) => post("check", { stage, values }, signal);
export const startJob = (stage, values) => post("jobs", { stage, values });
export const stopJob = (id) => post(`jobs/${segment(id)}/stop`);
export const resumeJob = (id) => post(`jobs/${segment(id)}/resume`);
export const forgetJob = (id) => request(`dashboard/jobs/${segment(id)}`, { method: "DELETE" });
export const exportModel = (id, to) => post(`models/${segment(id)}/export`, { to });
export const upload = (file) => post(`files?${query({ name: file.name })}`, file);

/** Delete a model. Where others depend on it, the server refuses unless they go, too. */
export async function deleteModel(id, withChildren) {
  const values = query({ confirm: id, with_children: withChildren ? 1 : null });
  return (await request(`dashboard/models/${segment(id)}?${values}`, { method: "DELETE" })).json();
}

/** Do `work` now and again every `seconds`, as long as the page is seen. Returns `work` as a function to do it at once. */
export function keepAsking(work, seconds) {
  let timer = null;
  const now = async () => {
    clearTimeout(timer);
    await isThere(work);
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(now, 1000 * seconds);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : now()));
  return now;
}

/** Do `work`; where the server cannot do its part, the page shows why. Returns whether it was done. */
export async function isThere(work) {
  let error = null;
  try {
    await work();
  } catch (failure) {
    if (!(failure instanceof ApiError)) throw failure;
    error = failure;
  }
  byId("down-notice").hidden = error === null;
  byId("down-notice").textContent = error?.message ?? "";
  return error === null;
}
