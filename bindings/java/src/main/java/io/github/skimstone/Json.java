package io.github.skimstone;

/**
 * Looks a field up in JSON that the library wrote, which is valid and has no blanks. Android has a parser, plain Java has none,
 * and this is all that an event needs of one.
 */
final class Json {
    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** The JSON of the value at {@code path}: keys and indices with dots between. */
    static String find(String text, String path) {
        Json json = new Json(text);
        for (String key : path.split("\\.", -1)) {
            if (!json.enter(key)) {
                throw SkimstoneException.argument("an event has no field `" + path + "`", "its json() shows what it has");
            }
        }
        int begin = json.at;
        json.skip();
        return text.substring(begin, json.at);
    }

    /** The text of a string in quotes. */
    static String unquote(String quoted) {
        StringBuilder text = new StringBuilder(quoted.length());
        for (int i = 1; i < quoted.length() - 1; i++) {
            char c = quoted.charAt(i);
            if (c != '\\') {
                text.append(c);
                continue;
            }
            c = quoted.charAt(++i);
            int control = "bfnrt".indexOf(c);
            if (c == 'u') {
                text.append((char) Integer.parseInt(quoted.substring(i + 1, i + 5), 16));
                i += 4;
            } else {
                text.append(control < 0 ? c : "\b\f\n\r\t".charAt(control));
            }
        }
        return text.toString();
    }

    /** Goes to the value of {@code key} within the object or array that begins here. */
    private boolean enter(String key) {
        char open = text.charAt(at);
        if (open != '{' && open != '[') {
            return false;
        }
        at++;
        for (int index = 0; text.charAt(at) != '}' && text.charAt(at) != ']'; index++) {
            String name = String.valueOf(index);
            if (open == '{') {
                int begin = at;
                skip();
                name = unquote(text.substring(begin, at));
                at++; // The colon.
            }
            if (name.equals(key)) {
                return true;
            }
            skip();
            if (text.charAt(at) == ',') {
                at++;
            }
        }
        return false;
    }

    /** Goes behind the value that begins here. */
    private void skip() {
        int depth = 0;
        do {
            char c = text.charAt(at);
            if (c == '"') {
                for (at++; text.charAt(at) != '"'; at++) {
                    if (text.charAt(at) == '\\') {
                        at++;
                    }
                }
                at++;
            } else if (c == '{' || c == '[') {
                depth++;
                at++;
            } else if (c == '}' || c == ']') {
                depth--;
                at++;
            } else if (c == ',' || c == ':') {
                at++;
            } else {
                while (at < text.length() && ",:]}".indexOf(text.charAt(at)) < 0) {
                    at++;
                }
            }
        } while (depth > 0);
    }
}
