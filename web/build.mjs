// Bundles the page into annotate/static: app.js and app.css, beside the index.html that is kept in git.
import { build } from "esbuild";

await build({
  entryPoints: { app: "src/main.ts" },
  outdir: "../annotate/static",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome111", "firefox115", "safari16.4"],
  legalComments: "none",
  logLevel: "warning",
});
