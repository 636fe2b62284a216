import Glibc
import TestSupport
import Testing

/// Every example of README.md and of the manual, run as a user would run it. An example without a rule fails.
@Suite(
    .enabled(
        if: FUSE.isThereForRoot && access("/dev/loop-control", F_OK) == 0
            && ExampleRoot.tools.allSatisfy { Tool.has($0) },
        "needs root, /dev/fuse, loop devices and \(ExampleRoot.tools.joined(separator: ", "))"))
struct ExampleTests {
    private func rules(_ examples: [Example]) throws -> [(example: Example, rule: ExampleRule)] {
        let missing = examples.filter { ExampleRules.all[$0.line] == nil }
        #expect(missing.isEmpty, "nothing in ExampleRules.swift says what these examples do: \(missing)")
        try #require(examples.count > 3, "the document has no examples, or they are not found")
        return examples.compactMap { example in ExampleRules.all[example.line].map { (example, $0) } }
    }

    private func expect(_ outcomes: [ExampleRoot.Outcome], _ steps: [(example: Example, rule: ExampleRule)]) {
        for (outcome, step) in zip(outcomes, steps) {
            #expect(outcome.status == "0\n", "\(outcome)")
            for text in step.rule.shows { #expect(outcome.output.contains(text), "\(text) is missing in \(outcome)") }
            #expect(outcome.checked.hasPrefix(step.rule.gives), "not \(step.rule.gives), but \(outcome)")
        }
    }

    /// Nothing is unmounted or removed between them but by themselves.
    @Test(.timeLimit(.minutes(5)))
    func examplesOfTheReadMeWorkOneAfterAnother() throws {
        let steps = try rules(Examples.ofReadMe())
        expect(try ExampleRoot().run(steps.map { ($0.example, $0.rule, true) }), steps)
    }

    @Test(.timeLimit(.minutes(5)))
    func commandsInTheTextOfTheReadMeWork() throws {
        let steps = try rules(Examples.inTheTextOfReadMe())
        expect(try ExampleRoot().run(steps.map { ($0.example, $0.rule, false) }), steps)
    }

    /// The lines of one display belong together.
    @Test(.timeLimit(.minutes(5)))
    func displaysOfTheManualWork() throws {
        let steps = try rules(Examples.ofManual())
        var block = 0
        let kept = steps.map { step in
            defer { block = step.example.block }
            return (step.example, step.rule, step.example.block == block)
        }
        expect(try ExampleRoot().run(kept), steps)
    }
}
