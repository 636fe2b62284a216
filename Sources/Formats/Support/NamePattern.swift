/// A pattern for the name of a file, as a shell has it: `*` for any characters, `?` for one, `[a-z]` and `[!a-z]` for
/// one of a set, a backslash before a character that stands for itself.
///
/// Names are bytes. Where they are UTF-8 a pattern sees characters, and every other byte counts as one of its own.
package struct NamePattern: Sendable, Equatable {
    private enum Piece: Sendable, Equatable {
        case anything
        case one
        case exactly(UInt32)
        case oneOf([ClosedRange<UInt32>], isNegated: Bool)
    }

    /// The pattern as it was given.
    package let text: String
    private let pieces: [Piece]

    /// A byte that is no part of a character: greater than all of those.
    private static let noCharacter: UInt32 = .max

    /// Reads a pattern; nil for what can match no name (an empty one, one with a slash) and for character classes such as
    /// `[[:alpha:]]`, which are not understood.
    package init?(_ text: String) {
        let characters = text.unicodeScalars.map(\.value)
        guard !characters.isEmpty, !characters.contains(Self.value("/")), !characters.contains(0) else { return nil }
        var pieces: [Piece] = []
        var rest = characters[...]
        while let character = rest.popFirst() {
            switch character {
            case Self.value("*"): if pieces.last != .anything { pieces.append(.anything) }
            case Self.value("?"): pieces.append(.one)
            case Self.value("\\"): pieces.append(.exactly(rest.popFirst() ?? character))
            case Self.value("["):
                guard let set = Self.set(rest) else {
                    pieces.append(.exactly(character))
                    continue
                }
                guard let piece = set.piece else { return nil }
                pieces.append(piece)
                rest = set.rest
            default: pieces.append(.exactly(character))
            }
        }
        self.text = text
        self.pieces = pieces
    }

    /// Whether the whole of `name` is of this pattern. The time is at most the product of both lengths: only the last `*`
    /// that was met is ever tried again.
    package func matches(_ name: some Sequence<UInt8>) -> Bool {
        let name = Self.characters(name)
        var (piece, place) = (0, 0)
        var retry: (piece: Int, place: Int)?
        while place < name.count || piece < pieces.count {
            if piece < pieces.count {
                if pieces[piece] == .anything {
                    retry = (piece + 1, place)
                    piece += 1
                    continue
                }
                if place < name.count, Self.matches(pieces[piece], name[place]) {
                    (piece, place) = (piece + 1, place + 1)
                    continue
                }
            }
            guard let last = retry, last.place < name.count else { return false }
            retry = (last.piece, last.place + 1)
            (piece, place) = (last.piece, last.place + 1)
        }
        return true
    }

    private static func matches(_ piece: Piece, _ character: UInt32) -> Bool {
        switch piece {
        case .anything, .one: true
        case .exactly(let wanted): wanted == character
        case .oneOf(let ranges, let isNegated): ranges.contains { $0.contains(character) } != isNegated
        }
    }

    private static func value(_ scalar: Unicode.Scalar) -> UInt32 { scalar.value }

    /// The set that begins `rest`, behind its bracket, and what follows it; nil where no bracket closes it. Its piece is nil
    /// where it holds a class.
    private static func set(_ rest: ArraySlice<UInt32>) -> (piece: Piece?, rest: ArraySlice<UInt32>)? {
        var rest = rest
        let isNegated = rest.first == value("!") || rest.first == value("^")
        if isNegated { rest.removeFirst() }
        var ranges: [ClosedRange<UInt32>] = []
        var (isFirst, hasClass) = (true, false)
        while let character = rest.popFirst() {
            if character == value("]"), !isFirst {
                return (hasClass ? nil : .oneOf(ranges, isNegated: isNegated), rest)
            }
            isFirst = false
            if character == value("["), let next = rest.first, [value(":"), value("."), value("=")].contains(next) {
                hasClass = true
            }
            guard let low = literal(character, &rest) else { return nil }
            guard rest.first == value("-"), let next = rest.dropFirst().first, next != value("]") else {
                ranges.append(low...low)
                continue
            }
            rest.removeFirst(2)
            guard let high = literal(next, &rest) else { return nil }
            // A range that runs backwards holds nothing.
            if low <= high { ranges.append(low...high) }
        }
        return nil
    }

    /// The character that stands for itself: the next one behind a backslash.
    private static func literal(_ character: UInt32, _ rest: inout ArraySlice<UInt32>) -> UInt32? {
        character == value("\\") ? rest.popFirst() : character
    }

    private static func characters(_ name: some Sequence<UInt8>) -> [UInt32] {
        var result: [UInt32] = []
        var bytes = name.makeIterator()
        var parser = Unicode.UTF8.ForwardParser()
        while true {
            switch parser.parseScalar(from: &bytes) {
            case .valid(let encoded): result.append(Unicode.UTF8.decode(encoded).value)
            case .error(let length): result += [UInt32](repeating: noCharacter, count: length)
            case .emptyInput: return result
            }
        }
    }
}
