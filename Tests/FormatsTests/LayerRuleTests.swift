import TestSupport
import Testing

/// The rules of the layers that the compiler cannot see, checked on the source tree itself.
@Suite struct LayerRuleTests {
    struct Source: Sendable, CustomStringConvertible {
        var path: String
        var lines: [String]
        var description: String { path }

        /// The module, or the test folder, that the file belongs to.
        var module: String { String(path.split(separator: "/")[1]) }

        /// The modules that it imports.
        var imports: [String] {
            lines.compactMap { line in
                let words = line.split(separator: " ").drop { $0 != "import" }
                let isImport = line.hasPrefix("import ") || line.contains(" import ")
                guard isImport, !line.hasPrefix("//"), words.count >= 2 else { return nil }
                let indent = line.prefix { $0 == " " }.count
                return indent == 0 ? String(words.last ?? "") : nil
            }
        }

        /// The lines with what is said in comments and strings taken out, as far as one line shows it.
        var code: [String] {
            lines.map { line in
                var result = ""
                var inString = false
                var previous: Character = " "
                for character in line {
                    if character == "\"", previous != "\\" { inString.toggle() }
                    if !inString, character == "/", previous == "/" {
                        result.removeLast()
                        break
                    }
                    if !inString { result.append(character) }
                    previous = character
                }
                return result
            }
        }
    }

    static let sources: [Source] = ["Sources", "Tests"].flatMap { swiftFiles(below: $0) }
    static var product: [Source] { sources.filter { $0.path.hasPrefix("Sources/") } }

    private static func swiftFiles(below folder: String) -> [Source] {
        let root = SharedImages.packageRoot
        return ((try? HostFiles.list("\(root)/\(folder)")) ?? []).flatMap { name -> [Source] in
            let path = "\(folder)/\(name)"
            if HostFiles.isDirectory("\(root)/\(path)") { return swiftFiles(below: path) }
            guard name.hasSuffix(".swift"), let text = try? HostFiles.text("\(root)/\(path)") else { return [] }
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
            return [Source(path: path, lines: lines)]
        }
    }

    /// What a layer must not import; what is above it in the drawing of DESIGN.md is kept out by Package.swift.
    static let forbidden: [String: Set<String>] = [
        "Bytes": ["Storage", "Glibc", "CLinux", "SystemPackage", "Synchronization", "Logging"],
        "Storage": ["Formats", "Disk", "Mount", "CFuse3"],
        "Formats": ["Glibc", "CLinux", "CFuse3", "Disk", "Mount", "SystemPackage", "Logging"],
        "Disk": ["Glibc", "CLinux", "CFuse3", "Mount"],
    ]

    @Test func theTreeWasFound() {
        #expect(Self.product.count > 30)
        #expect(Set(Self.product.map(\.module)).isSuperset(of: ["Bytes", "Storage", "Formats", "Disk", "Mount"]))
        #expect(Self.product.contains { $0.imports.contains("Glibc") })
    }

    @Test(arguments: sources)
    func importsOnlyWhatItsLayerMay(source: Source) {
        #expect(!source.imports.contains { $0.hasPrefix("Foundation") })
        guard source.path.hasPrefix("Sources/") else { return }
        let found = Set(source.imports).intersection(Self.forbidden[source.module] ?? [])
        #expect(found.isEmpty)
        if source.module == "Bytes" { #expect(source.imports.isEmpty) }
    }

    /// libfuse's headers turn functions into macros and change the types of constants: C calls them, and Swift only sees
    /// structures.
    @Test(arguments: product)
    func callsNothingOfLibfuse(source: Source) {
        if source.imports.contains("CFuse3") { #expect(source.module == "Mount") }
        let structures: Set = ["fuse_entry_param(", "fuse_lowlevel_ops("]
        for (number, line) in source.code.enumerated() {
            for found in line.matches(of: #/\b(fuse_\w+\(|FUSE_\w+)/#) where !structures.contains(String(found.1)) {
                Issue.record("\(source.path):\(number + 1): \(found.1)")
            }
        }
    }

    /// No format names a type that another format's folder declares.
    @Test func formatsDoNotKnowEachOther() {
        let folders = Dictionary(
            grouping: Self.product.filter { $0.path.split(separator: "/").count == 4 && $0.module == "Formats" }
        ) {
            String($0.path.split(separator: "/")[2])
        }.filter { $0.key != "Support" }
        #expect(folders.count >= 5)
        for (folder, files) in folders {
            let own = declaredTypes(files)
            let others = folders.filter { $0.key != folder }.values.reduce(into: Set<String>()) {
                $0.formUnion(declaredTypes($1))
            }.subtracting(own)
            for file in files {
                for (number, line) in file.code.enumerated() {
                    let named = Set(line.split { !$0.isLetter && !$0.isNumber && $0 != "_" }.map(String.init))
                    #expect(named.isDisjoint(with: others), "\(file.path):\(number + 1): \(line)")
                }
            }
        }
    }

    /// The types declared at the outermost level, which is where another folder could name them.
    private func declaredTypes(_ files: [Source]) -> Set<String> {
        var names: Set<String> = []
        for line in files.flatMap(\.code)
        where !line.hasPrefix(" ") && !line.contains("fileprivate") && !line.contains("private ") {
            let words = line.split { !$0.isLetter && !$0.isNumber && $0 != "_" }.map(String.init)
            guard
                let index = words.firstIndex(where: { ["class", "struct", "enum", "protocol", "actor"].contains($0) }),
                index + 1 < words.count
            else { continue }
            names.insert(words[index + 1])
        }
        return names
    }

    /// Only the command line prints and exits; everything below throws or logs.
    @Test(arguments: product.filter { $0.module != "platter" })
    func doesNotPrintOrExit(source: Source) {
        for (number, line) in source.code.enumerated() {
            for call in ["print(", "exit(", "_exit(", "fatalError(", "preconditionFailure(", "debugPrint("] {
                guard let range = firstCall(call, in: line) else { continue }
                Issue.record("\(source.path):\(number + 1) calls \(line[range])…)")
            }
        }
    }

    /// The place of a call in a line, when it is not the end of a longer name or somebody's method.
    private func firstCall(_ call: String, in line: String) -> Range<String.Index>? {
        var start = line.startIndex
        while start < line.endIndex {
            if line[start...].hasPrefix(call) {
                let before = start > line.startIndex ? line[line.index(before: start)] : " "
                if !before.isLetter, !before.isNumber, before != "_", before != ".", !line.contains("func \(call)") {
                    return start..<line.index(start, offsetBy: call.count)
                }
            }
            start = line.index(after: start)
        }
        return nil
    }

    @Test(arguments: product)
    func trustsNoInput(source: Source) {
        for (number, line) in source.code.enumerated() {
            #expect(!line.contains("try!") && !line.contains("as!"), "\(source.path):\(number + 1)")
        }
    }

    @Test(arguments: sources)
    func filesAreShort(source: Source) { #expect(source.lines.count <= 401) }

    @Test(arguments: sources)
    func functionsAreShort(source: Source) {
        var start: (line: Int, indent: Int)?
        for (number, line) in source.lines.enumerated() {
            let indent = line.prefix { $0 == " " }.count
            let text = line.dropFirst(indent)
            if let open = start, indent == open.indent, text.hasPrefix("}") {
                #expect(number - open.line + 1 <= 70, "\(source.path):\(open.line + 1)")
                start = nil
            } else if start == nil, text.contains("func ") || text.contains("init("), !text.hasPrefix("//"),
                !text.hasSuffix("}")
            {
                start = (number, indent)
            } else if let open = start, indent <= open.indent, !text.isEmpty, !text.hasPrefix(")"), !text.hasPrefix("{")
            {
                // A declaration without a body, in a protocol.
                start = nil
            }
        }
    }
}
