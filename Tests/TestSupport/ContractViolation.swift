/// What a driver did that `FormatDriver` does not allow, and where.
package struct ContractViolation: Error, CustomStringConvertible {
    package let description: String

    /// Says what was done.
    package init(_ what: String) { description = what }

    /// Throws unless `condition` holds; `what` says what was found instead.
    package static func check(_ condition: Bool, _ what: @autoclosure () -> String) throws {
        guard condition else { throw ContractViolation(what()) }
    }
}

/// Runs `body` for every element, and adds the element to whatever is thrown: nested calls give every combination,
/// and a failure says which one it was.
package func withEvery<Choice>(
    _ label: String, in choices: some Sequence<Choice>, _ body: (Choice) throws -> Void
) throws {
    for choice in choices {
        do {
            try body(choice)
        } catch {
            throw ContractViolation("\(error)\n  with \(label) \(choice)")
        }
    }
}
