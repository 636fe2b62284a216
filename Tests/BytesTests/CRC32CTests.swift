import Bytes
import Testing

@Suite struct CRC32CTests {
    @Test func checkValueOfRFC3720() {
        var crc = CRC32C()
        let text = Array("123456789".utf8)
        crc.add(text.span.bytes, at: 0, count: text.count)
        #expect(crc.value == 0xE306_9283)
    }

    @Test func fieldCountsAsZero() {
        var bytes = [UInt8](repeating: 7, count: 4096)
        let checksum = CRC32C.of(bytes.span.bytes, zeroing: 4)
        bytes[5] = 99
        #expect(CRC32C.of(bytes.span.bytes, zeroing: 4) == checksum)
        bytes[8] = 99
        #expect(CRC32C.of(bytes.span.bytes, zeroing: 4) != checksum)
    }
}
