/** The next step in one sentence, for somebody who has read nothing. */
import type { PreviewState } from "./types.ts";

export interface Situation {
  classes: number;
  regions: number;
  objects: number;
  strokes: number;
  preview: PreviewState;
  rounds: number;
  worse: boolean;
  proposal: "none" | "wand" | "region";
  run: "none" | "running" | "done" | "failed";
  resultShown: boolean;
}

export interface Step {
  /** Which of `STEPS` is the current one. */
  number: 1 | 2 | 3 | 4 | 5;
  text: string;
  /** What the button beside the text does. */
  action: "class" | "region" | "polygon" | "improve" | "run" | "results" | "accept" | null;
}

export const STEPS = ["Region", "Objects", "Check", "Improve", "Run"] as const;

/** Regions from which on the whole run is worth its time: the paper's five shots. */
export const ENOUGH_REGIONS = 5;

export function nextStep(now: Situation): Step {
  const text = (number: Step["number"], words: string, action: Step["action"] = null): Step => ({
    number,
    text: words,
    action,
  });
  if (now.proposal === "wand")
    return text(2, "Press Enter to accept the dashed outline, or Esc to discard it.", "accept");
  if (now.proposal === "region")
    return text(
      4,
      "Click a dashed object that is wrong to leave it out, then press Enter. You can correct the rest afterwards.",
      "accept",
    );
  if (now.run === "running")
    return text(
      5,
      "The whole run is under way. You can go on drawing meanwhile; it uses the labels it was started with.",
      "run",
    );
  if (now.run === "done" && now.resultShown)
    return text(
      5,
      "Click an object or a row, filter the table, and open the report. More regions and another run improve it.",
      "results",
    );
  if (now.classes === 0 && now.regions === 0 && now.objects === 0)
    return text(
      1,
      "What are you looking for? Give it a name, for example “Nucleus”, in the panel on the right.",
      "class",
    );
  if (now.regions === 0 && now.objects === 0)
    return text(
      1,
      "Draw a region: press R and click among typical objects. You will outline all that lie in the square.",
      "region",
    );
  if (now.regions === 0)
    return text(
      1,
      "Put a region round your objects: press R and click. Inside it, what is not outlined counts as background.",
      "region",
    );
  if (now.objects === 0)
    return text(
      2,
      "Outline every object in the region: P polygon, L lasso or B brush. All of them, also the small ones.",
      "polygon",
    );
  if (now.objects === 1)
    return text(
      2,
      "Go on: the preview starts at the second object. What you leave out inside the region counts as background.",
      "polygon",
    );
  if (now.worse) return text(4, "The last round made it worse. Look at “Improve”: one click takes it back.", "improve");
  if (now.preview === "computing" && now.regions < 2)
    return text(3, "The preview is being computed for what you see. Finish outlining meanwhile: nothing waits for it.");
  if (now.regions === 1)
    return text(
      3,
      "Compare the preview with the image. Where it is wrong, add a region there: press G for suggestions, or N to mark background.",
      "improve",
    );
  if (now.regions < ENOUGH_REGIONS)
    return text(
      4,
      `${now.regions} of about ${ENOUGH_REGIONS} regions. Open “Improve” and click the worst of the eight windows: it opens filled in, you correct it.`,
      "improve",
    );
  return text(
    5,
    "Compare the preview with the image in several places. Good enough? Run the whole image. If not, press G and correct the worst.",
    "run",
  );
}
