/// The syntax of `-o a,b=c`: items separated by commas, a backslash before a comma or a backslash that belongs to a
/// value, as libfuse and the options in fstab have it. A value in double quotes may hold commas as well (libmount).
enum MountOptionList {
    /// One item of a list.
    struct Item: Equatable, Sendable {
        /// What stands before the first "=".
        var key: String
        /// What stands behind it, without escapes and quotes; nil when there is no "=".
        var value: String?
    }

    /// The items of `list`; empty items are left out.
    static func items(of list: String) -> [Item] {
        var items: [Item] = []
        var text = ""
        var equals: String.Index?
        var isQuoted = false
        var characters = list.unicodeScalars[...]
        func finish() {
            if let equals {
                items.append(Item(key: String(text[..<equals]), value: String(text[equals...])))
            } else if !text.isEmpty {
                items.append(Item(key: text, value: nil))
            }
        }
        while let character = characters.popFirst() {
            switch character {
            case "\\" where characters.first == "," || characters.first == "\\":
                if let next = characters.popFirst() { text.unicodeScalars.append(next) }
            case "\"" where equals != nil && (isQuoted || equals == text.endIndex):
                isQuoted.toggle()
            case "," where !isQuoted:
                finish()
                (text, equals) = ("", nil)
            case "=" where equals == nil:
                equals = text.endIndex
            default:
                text.unicodeScalars.append(character)
            }
        }
        finish()
        return items
    }

    /// `text` with commas and backslashes escaped, so that it stays one value in a list.
    static func escaped(_ text: String) -> String {
        var result = ""
        for character in text.unicodeScalars {
            if character == "," || character == "\\" { result += "\\" }
            result.unicodeScalars.append(character)
        }
        return result
    }
}
