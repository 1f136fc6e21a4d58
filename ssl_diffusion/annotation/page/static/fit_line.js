// A fit in words.

export function fitLine(fit) {
  const minutes = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
  if (fit.state === "none") return "";
  if (fit.state === "done") return "The last fit is finished.";
  if (fit.state !== "running") return `The last fit ${fit.state === "failed" ? "failed" : "was interrupted"}: ${fit.message}`;
  const part = fit.task ? `${fit.task}, ${Math.floor(100 * fit.done)} %` : "starting";
  const left = fit.seconds_left === null ? `for ${minutes(fit.seconds)}` : `${minutes(fit.seconds_left)} left`;
  return `Fitting: ${part}, ${left}.`;
}
