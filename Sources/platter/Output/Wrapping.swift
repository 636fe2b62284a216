/// Text in lines that fit a terminal.
enum Wrapping {
    /// The columns of a terminal, without the last one, where some begin a new line.
    static let columns = 79

    /// The words of `text` in lines of at most `width` columns. A word that is longer has a line of its own.
    static func lines(_ text: String, width: Int) -> [String] {
        lines(of: text.split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init), width: width)
    }

    /// `text` in lines, paragraph by paragraph; an empty line ends one.
    static func paragraphs(_ text: String) -> String {
        var paragraphs: [[Substring]] = [[]]
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.isEmpty { paragraphs.append([]) } else { paragraphs[paragraphs.count - 1].append(line) }
        }
        return paragraphs.map { lines($0.joined(separator: " "), width: columns).map { $0 + "\n" }.joined() }
            .joined(separator: "\n")
    }

    /// The line of a synopsis behind `start`, what stands in brackets never torn; further lines begin below its second
    /// word, since the first one is the command.
    static func synopsis(_ start: String, _ synopsis: some StringProtocol) -> String {
        var parts: [String] = []
        var depth = 0
        for word in synopsis.split(separator: " ") {
            if depth > 0 { parts[parts.count - 1] += " " + word } else { parts.append(String(word)) }
            depth += word.count { $0 == "[" } - word.count { $0 == "]" }
        }
        let indent = start.count + (parts.first.map { $0.hasPrefix("[") ? 0 : $0.count + 1 } ?? 0)
        let text = lines(of: parts, width: columns - indent, first: columns - start.count)
        return start + text.joined(separator: "\n" + String(repeating: " ", count: indent)) + "\n"
    }

    /// Names, indented by two, and beside each its meaning, wrapped; a name of more than 30 columns has a line of its own.
    static func columns(_ rows: [(name: String, meaning: String)]) -> String {
        let width = min(30, rows.map(\.name.count).max() ?? 0)
        let margin = "\n" + String(repeating: " ", count: width + 4)
        return rows.map { name, meaning in
            let gap = name.count <= width ? String(repeating: " ", count: width - name.count + 2) : margin
            return "  \(name)\(gap)\(lines(meaning, width: columns - width - 4).joined(separator: margin))\n"
        }.joined()
    }

    private static func lines(of words: [String], width: Int, first: Int? = nil) -> [String] {
        var result: [String] = []
        for word in words {
            let limit = result.count > 1 ? width : first ?? width
            if let line = result.last, line.count + 1 + word.count <= limit {
                result[result.count - 1] = line + " " + word
            } else {
                result.append(word)
            }
        }
        return result
    }
}
