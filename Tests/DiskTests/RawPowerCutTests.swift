internal import Formats
internal import TestSupport
internal import Testing

/// Raw disks that lose power: bytes only, so what is durable is what was flushed.
@Suite struct RawPowerCutTests {
    static func fixture(_ size: Int) -> DiskFixture {
        var random = SeededRandom(seed: 3)
        var content = SparseBytes(size: size)
        random.bytes(100_000).withUnsafeBytes { content.write(at: 4096, $0) }
        return DiskFixture(name: "raw of \(size) bytes", images: [(Raw.self, content)])
    }

    @Test func everyStateHoldsWhatWasFlushed() throws {
        let counts = try PowerCutCampaign(Self.fixture(2 << 20), states: 200).run()
        #expect(counts.states >= 200 && counts.second > 0)
    }

    @Test func aDiskThatIsNoMultipleOfASector() throws {
        try PowerCutCampaign(Self.fixture(777_777), states: 50, largest: 200_000).run()
    }

    @Test func aHostThatFailsLosesNothingThatWasFlushed() throws {
        #expect(try FaultCampaign(Self.fixture(1 << 20), largest: 64 << 10).run() > 60)
    }

    @Test func threadsReadWhatTheyWrote() throws {
        try ThreadCampaign(Self.fixture(2 << 20)).run()
    }
}
