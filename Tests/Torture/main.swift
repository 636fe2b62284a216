internal import Formats
internal import Glibc
internal import Storage
internal import TSanSupport
internal import TestSupport

// The long campaigns: for each format PLATTER_TORTURE_STATES states after a loss of power (200,000 by default), spread over
// many sorts of images, an eighth of them after a kill; failing hosts; and many threads. Arguments choose the sorts whose
// names contain one of them, and of the campaigns those that they name: "power", "kills", "faults" (long workloads that fail
// at some of their operations), "errors" (short ones that fail at each), "threads". The status is 1 when anything was found.

/// What runs, and how it went.
struct Run {
    var chosen: Set<String>
    var isSound = true
    var totals: [String: Int] = [:]

    /// Runs the chosen campaigns on one image; `share` states after a loss of power.
    mutating func torture(_ fixture: DiskFixture, _ subject: Subject, share: Int) {
        if chosen.contains("power") { cutPower(fixture, subject, states: share - share / 8, kills: false) }
        if chosen.contains("kills") { cutPower(fixture, subject, states: share / 8, kills: true) }
        if chosen.contains("faults") {
            attempt("\(fixture.name): failing host") {
                "\(try FaultCampaign(fixture, limit: max(8, min(200, share / 100))).run()) sessions"
            }
        }
        if chosen.contains("errors") {
            attempt("\(fixture.name): a host that fails at each operation in turn") {
                // A slice has shorter workloads; every operation of them fails all the same.
                let (operations, rounds): (Int, UInt64) = share < 1000 ? (3, 1) : (16, 3)
                let sessions = try (0..<rounds).map {
                    try FaultCampaign.every(
                        fixture, seed: Torture.seed &+ $0, operations: operations, unit: subject.unit
                    ).run()
                }
                return "\(sessions.reduce(0, +)) sessions"
            }
        }
        if chosen.contains("threads") {
            attempt("\(fixture.name): threads") {
                let seesRaces = tsan_support_is_active()
                var campaign = ThreadCampaign(fixture, operations: seesRaces ? 400 : 150)
                campaign.isOnHost = seesRaces
                try campaign.run()
                let watched = seesRaces ? ", ThreadSanitizer looks on" : ""
                return "\(campaign.threads) of them, \(campaign.operations) operations each\(watched)"
            }
        }
    }

    /// Cuts the power, with `kills` after a first session was killed and a second one has gone on.
    private mutating func cutPower(_ fixture: DiskFixture, _ subject: Subject, states: Int, kills: Bool) {
        var seen = 0
        attempt("\(fixture.name): loss of power\(kills ? " after a kill" : "")") {
            var campaign = PowerCutCampaign(fixture, operations: subject.operations, largest: subject.largest)
            (campaign.states, campaign.kills, campaign.unit) = (max(1, states), kills, subject.unit)
            let counts = try campaign.run()
            seen = counts.states
            return "\(counts.states) states, \(counts.second) of them of a second session"
        }
        totals[subject.format, default: 0] += seen
    }

    /// Runs one campaign and says how it went.
    mutating func attempt(_ what: String, _ body: () throws -> String) {
        let start = monotonicSeconds()
        do {
            let result = try body()
            say("\(what): \(result), \(Int(monotonicSeconds() - start)) s")
        } catch {
            say("\(what): FAILED: \(error)")
            isSound = false
        }
    }

    func say(_ text: String) {
        print(text)
        fflush(nil)
    }
}

let campaigns = ["power", "kills", "faults", "errors", "threads"]
let arguments = Array(CommandLine.arguments.dropFirst())
let named = arguments.filter { campaigns.contains($0) }
let wanted = arguments.filter { !campaigns.contains($0) }
let subjects = Subject.all + (Tool.find("qemu-img") == nil ? [] : Subject.fromQEMU)
let states = Torture.states(200_000)
var all = Run(chosen: Set(named.isEmpty ? campaigns : named))
for subject in subjects {
    do {
        var fixture = try subject.make()
        if subject.unit > 0 { fixture.name += ", space used again" }
        guard wanted.isEmpty || wanted.contains(where: { fixture.name.contains($0) }) else { continue }
        let count = subjects.count { $0.format == subject.format }
        all.torture(fixture, subject, share: (states + count - 1) / count)
    } catch {
        all.say("an image of \(subject.format) cannot be made: \(error)")
        all.isSound = false
    }
}
for (format, count) in all.totals.sorted(by: { $0.key < $1.key }) { all.say("\(format): \(count) states") }
exit(all.isSound ? 0 : 1)
