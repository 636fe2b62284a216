internal import Bytes
internal import Disk
internal import Formats
internal import Glibc
internal import Storage
internal import TestSupport

// The long campaigns: PLATTER_TORTURE_STATES states after a loss of power for each sort of image (200,000 by default),
// failing hosts, and many threads. Arguments choose the sorts whose names contain one of them. The status is 1 when
// anything was found.

/// A sort of image that is tortured.
struct Subject {
    var format: any ImageFormat.Type
    var size: UInt64 = 8 << 20
    var options: [String: String] = [:]
}

let subjects = [
    Subject(format: Raw.self, size: 2 << 20),
    Subject(format: QCOW2.self),
    Subject(format: QCOW2.self, options: ["cluster_size": "4k", "refcount_bits": "1"]),
    Subject(format: QCOW2.self, options: ["extended_l2": "on"]),
    Subject(format: QCOW2.self, options: ["compat": "0.10", "cluster_size": "512"]),
    Subject(format: QCOW2.self, options: ["lazy_refcounts": "on", "cluster_size": "8k", "refcount_bits": "64"]),
    Subject(format: VHDX.self, size: 16 << 20, options: ["block_size": "1M"]),
    Subject(format: VHDX.self, size: 16 << 20, options: ["subformat": "fixed"]),
    Subject(format: VHD.self, options: ["subformat": "dynamic"]),
    Subject(format: VHD.self, options: ["subformat": "fixed"]),
]

func say(_ text: String) {
    print(text)
    fflush(nil)
}

/// Runs one sort of campaign and says how it went; false where it found something.
func run(_ what: String, _ fixture: DiskFixture, _ body: () throws -> String) -> Bool {
    let start = monotonicSeconds()
    do {
        let result = try body()
        say("\(fixture.name): \(what): \(result), \(Int(monotonicSeconds() - start)) s")
        return true
    } catch {
        say("\(fixture.name): \(what): FAILED: \(error)")
        return false
    }
}

let wanted = Array(CommandLine.arguments.dropFirst())
var isSound = true
for subject in subjects {
    let title =
        subject.format.name + subject.options.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
    guard wanted.isEmpty || wanted.contains(where: { title.contains($0) }) else { continue }
    let fixture: DiskFixture
    do {
        fixture = try DiskFixture.created(subject.format, size: subject.size, options: subject.options)
    } catch {
        say("\(title): cannot be made: \(error)")
        isSound = false
        continue
    }
    isSound =
        run("loss of power", fixture) {
            let counts = try PowerCutCampaign(fixture, states: 200_000).run()
            return "\(counts.states) states, \(counts.second) of them of a second session"
        } && isSound
    isSound = run("failing host", fixture) { "\(try FaultCampaign(fixture).run()) sessions" } && isSound
    isSound =
        run("threads", fixture) {
            try ThreadCampaign(fixture).run()
            return "16 threads"
        } && isSound
}
exit(isSound ? 0 : 1)
