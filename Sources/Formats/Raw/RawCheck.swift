internal import Bytes
package import Storage

extension Raw {
    package static func check(_ request: OpenRequest, repairs: Bool) throws(ImageError) -> CheckReport {
        var report = CheckReport()
        report.allocatedBytes = try request.storage.allocatedBytes()
        report.imageEnd = request.storage.size
        report.add(.note, "a raw disk holds nothing but the disk's bytes: there is nothing to check")
        return report
    }
}
