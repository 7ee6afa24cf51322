/** The page: one stream for the map, the moves and the chats. */

import { Stream } from "./api.js";
import * as chat from "./chat.js";
import { find, say } from "./dom.js";
import * as inspector from "./inspector.js";
import * as map from "./map.js";
import * as moves from "./moves.js";

const NOTICES = {
  hidden: "",
  live: "",
  lost: "The console does not answer. Trying again; what is shown is as it was last.",
};

function take(line) {
  if (line.kind === "snapshot") {
    say(find("name"), line.name);
    document.title = `${line.name} — ThreadCluster console`;
    find("docs").href = `${line.url}/docs`;
    find("docs").hidden = false;
    inspector.commands(line.commands);
    map.show(line);
  } else if (line.kind === "pulse") map.pulse(line);
  else if (line.kind === "moves") moves.show(line);
  else if (line.kind === "chat") chat.take(line);
}

function state(name, detail) {
  const text = NOTICES[name] ?? detail;
  document.body.dataset.stream = name;
  find("notice").hidden = !text;
  say(find("notice"), text);
}

const stream = new Stream(() => ({ follow: chat.follows() }), take, state);
inspector.start();
chat.start(
  () => stream.restart(),
  (thread) => {
    inspector.inspect(thread);
    find("inspector").scrollIntoView();
  },
);
stream.restart();
