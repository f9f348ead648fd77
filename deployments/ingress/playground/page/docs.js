// The documents at /docs: one file of Markdown, whose examples speak to the server that the page came from.

import { at } from "./dom.js";
import { showMarkdown } from "./markdown.js";

const WRITTEN_FOR = "http://localhost:8000";

const answer = await fetch("/page/docs.md");
showMarkdown(at("document"), (await answer.text()).replaceAll(WRITTEN_FOR, location.origin), { breaks: false });
