import Bytes
import Testing

@Suite struct CountedTests {
    @Test func oneIsSingular() {
        #expect(1.counted("byte") == "1 byte")
        #expect(UInt64(0).counted("byte") == "0 bytes")
        #expect(UInt64.max.counted("sector") == "18446744073709551615 sectors")
        #expect(UInt8(1).counted("entry", "entries") == "1 entry")
        #expect(2.counted("entry", "entries") == "2 entries")
    }
}
