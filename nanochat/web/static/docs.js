// The page that documents the API: only what every page has around its content.

import { Drawer, furnish } from "./shell.js";

furnish();
new Drawer("close-sidebar");
