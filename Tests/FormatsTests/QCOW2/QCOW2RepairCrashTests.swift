import Formats
import TestSupport
import Testing

/// Repairs that lose power: every state in between can be repaired again and holds the same bytes.
@Suite(.enabled(if: Oracle.isPresent, Oracle.skipReason))
struct QCOW2RepairCrashTests {
    @Test(
        arguments: [
            Damage.dataRefcountZero, .dataRefcountHigh, .sharedRefcountLow, .leakedCluster, .entryFlagMissing,
            .flagOnShared, .blockZeroed, .blockLost, .blockIsData, .blockIsTable, .tableOutside, .dirtyBit,
            .sameClusterTwice,
        ], [QCOW2CheckTests.Kind.plain, .narrow, .old])
    func everyStateCanBeRepaired(damage: Damage, kind: QCOW2CheckTests.Kind) throws {
        let directory = try TemporaryDirectory("repair")
        var image = try QCOW2Bytes(kind.make(in: directory))
        guard damage.apply(&image) else { return }
        let file = MemoryStorage(image.bytes)
        let request = OpenRequest(storage: file, companions: NoCompanions())
        _ = try QCOW2.check(request, repairs: true)
        #expect(try QCOW2.check(request, repairs: false).findings.isEmpty)
        #expect(try RepairPowerCut.sweep(QCOW2.self, image.bytes, most: 12, losses: 1) > 3)
    }
}
