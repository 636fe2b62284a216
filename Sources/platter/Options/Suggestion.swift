/// The nearest of the words that the program knows, for messages about one that it does not know.
enum Suggestion {
    /// No word that the program knows is longer than this, in bytes.
    private static let longest = 64

    /// The one of `known` that `word` is most likely meant to be; nil where none is near. Case does not count.
    static func nearest(to word: String, among known: [String]) -> String? {
        let wanted = Array(word.lowercased().utf8)
        guard !wanted.isEmpty, wanted.count <= longest else { return nil }
        let limit = min(3, (wanted.count + 1) / 3)
        let near = known.map { (name: $0, distance: distance(wanted, Array($0.lowercased().utf8))) }
            .filter { $0.distance <= limit }.min { $0.distance < $1.distance }
        return near?.name ?? known.first { abbreviates(wanted, Array($0.lowercased().utf8)) }
    }

    /// " (did you mean 'NAME'?)", or nothing.
    static func hint(_ name: String?) -> String { name.map { " (did you mean '\($0)'?)" } ?? "" }

    /// Returns whether `word` is `name` with letters left out, but not the first one: "mnt" for "mount".
    private static func abbreviates(_ word: [UInt8], _ name: [UInt8]) -> Bool {
        guard word.count > 1, word.first == name.first else { return false }
        var rest = word[...]
        for letter in name where letter == rest.first { rest.removeFirst() }
        return rest.isEmpty
    }

    /// How many letters must be changed, left out, put in, or exchanged with their neighbour to make one word the other:
    /// other: the edit distance of Damerau in its restricted form (optimal string alignment).
    static func distance(_ first: [UInt8], _ second: [UInt8]) -> Int {
        var before: [Int] = []
        var last = Array(0...second.count)
        for (row, letter) in first.enumerated() {
            var current = [row + 1]
            for (column, other) in second.enumerated() {
                var best = min(last[column + 1] + 1, current[column] + 1, last[column] + (letter == other ? 0 : 1))
                let isExchange =
                    row > 0 && column > 0 && letter == second[column - 1] && first[row - 1] == other
                if isExchange { best = min(best, before[column - 1] + 1) }
                current.append(best)
            }
            (before, last) = (last, current)
        }
        return last[second.count]
    }
}
