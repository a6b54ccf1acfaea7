/** The next step in one sentence, for somebody who has read nothing. */
import type { PreviewState } from "./types.ts";

export interface Situation {
  classes: number;
  regions: number;
  objects: number;
  /** Objects of which the whole outline is known: those that were painted may be parts. */
  outlined: number;
  /** Objects that are marked by a point. */
  points: number;
  strokes: number;
  /** Patches of labelled pictures that are learned from. */
  patches: number;
  map: boolean;
  /** Whether single objects are too small on the screen to be drawn. */
  zoomedOut: boolean;
  preview: PreviewState;
  rounds: number;
  worse: boolean;
  proposal: "none" | "wand" | "region";
  /** "new": it is done, and its result has not been shown yet. */
  run: "none" | "running" | "new" | "done" | "failed";
  resultShown: boolean;
}

export interface Step {
  /** Which of `STEPS` is the current one. */
  number: 1 | 2 | 3 | 4 | 5;
  text: string;
  /** What the button beside the text does. */
  action: "class" | "zoom" | "lasso" | "not" | "region" | "finish" | "improve" | "run" | "results" | "accept" | null;
}

export const STEPS = ["Outline", "Look", "Region", "Improve", "Run"] as const;

/** Regions from which on the whole run is worth its time: the paper's five shots. */
export const ENOUGH_REGIONS = 5;

/** Outlines from which on the preview is worth a look, and labels from which on it can fill in a region. */
const SOME_OBJECTS = 3;
const ENOUGH_LABELS = 6;

export function nextStep(now: Situation): Step {
  const text = (number: Step["number"], words: string, action: Step["action"] = null): Step => ({
    number,
    text: words,
    action,
  });
  if (now.proposal === "wand")
    return text(1, "Press Enter to accept the dashed outline, or Esc to discard it.", "accept");
  if (now.proposal === "region")
    return text(
      now.regions ? 4 : 3,
      "Click a dashed object that is wrong to leave it out, then press Enter. What is missing you outline afterwards.",
      "accept",
    );
  if (now.run === "running")
    return text(
      5,
      "The whole run is under way. You can go on drawing meanwhile; it uses the labels it was started with.",
      "run",
    );
  if (now.run === "new")
    return text(5, "The run is finished: its count is in the panel “Run”. Show the result to browse it.", "results");
  if (now.run === "done" && now.resultShown)
    return text(
      5,
      "Click an object or a row, filter the table, and open the report. More regions and another run improve it.",
      "results",
    );
  if (now.regions === 0 && now.patches > 0)
    return now.zoomedOut
      ? text(2, "Zoom in with the wheel: thin outlines are what the labelled pictures find here.", "zoom")
      : text(
          2,
          "Thin outlines: found by the labelled pictures. Where they are wrong, press F: a region opens, filled in, to be corrected.",
          "finish",
        );
  if (now.regions === 0 && now.objects === 0) {
    if (now.classes === 0)
      return text(
        1,
        "What are you looking for? Give it a name, for example “Nucleus”, in the panel on the right.",
        "class",
      );
    return now.zoomedOut
      ? text(
          1,
          "Zoom in with the wheel until you see single objects. Hold Space and drag to move about with any tool.",
          "zoom",
        )
      : text(
          1,
          now.map
            ? "Draw round one whole object with the lasso (L), or paint a part of a large one with the brush (B)."
            : "Draw round one whole object with the lasso (L), or click it with the magic wand (W).",
          "lasso",
        );
  }
  if (now.regions === 0) {
    if (now.points > 0 && now.outlined === 0 && now.strokes === 0)
      return text(
        3,
        "Points teach in a region: press R and click, then mark every object in it by one click each (T).",
        "region",
      );
    if (now.outlined === 0 && now.strokes === 0)
      return text(1, "Show what is not one, too: press N and stroke over background.", "not");
    if (now.objects < SOME_OBJECTS)
      return text(1, "Outline two or three more that look different. Thin outlines show what the preview finds.");
    if (now.objects + now.strokes < ENOUGH_LABELS)
      return text(
        2,
        "Thin outlines: found by the preview. Point at one, press A if it is right, X if not. Outline what it misses.",
        "finish",
      );
    return text(
      3,
      "Finish a region: press F. A square opens, filled in by the preview; complete it, and it teaches everywhere.",
      "finish",
    );
  }
  if (now.objects === 0 && !now.patches)
    return text(
      3,
      "Outline every object in the region, or mark each by a click (T): what is not marked in it counts as background.",
      "lasso",
    );
  if (now.objects < SOME_OBJECTS && !now.patches)
    return text(
      3,
      "Go on until every object in the region is outlined or marked: the rest of it counts as background.",
    );
  if (now.worse) return text(4, "The last round made it worse. Look at “Improve”: one click takes it back.", "improve");
  if (now.regions === 1)
    return text(
      3,
      "Is all in the region outlined or marked, also what is small? Then press G and look where the preview fails elsewhere.",
      "improve",
    );
  if (now.regions + now.patches < ENOUGH_REGIONS)
    return text(
      4,
      `${now.regions} of about ${ENOUGH_REGIONS} regions. Complete this one; then press G and click another window: it opens filled in.`,
      "improve",
    );
  return text(
    5,
    "Compare the preview with the image in several places. Good enough? Run the whole image. If not, press G and correct the worst.",
    "run",
  );
}
