import Glibc
import RaftCore

/// Some consecutive records of a file; no key twice.
struct Batch: Equatable, Sendable {
    var records: [Record] = []
    /// What they take in the file.
    var fileBytes = 0
    /// Of keys and values.
    var payloadBytes = 0
}

/// Reads a file of records a batch at a time, never more of it into memory than the longest line.
///
/// Lines end with a line feed, a carriage return before it is dropped; empty lines are skipped. Reading blocks: it
/// happens on a thread of its own.
actor RecordSource {
    private let executor: ThreadExecutor
    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    /// Size of the file in bytes, if it has one.
    nonisolated let fileBytes: UInt64?

    private static let batchRecords = 64
    private static let batchBytes = 512 << 10

    private var lines: LineReader
    private let format: RecordFormat
    private let name: String
    private var failure: Failure?
    /// Read already, for the next batch.
    private var pending: (record: Record, fileBytes: Int)?

    /// The records of the file at `path`, `-` being standard input.
    init(path: String, format: RecordFormat) throws(Failure) {
        name = path == "-" ? "standard input" : path
        let descriptor = path == "-" ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .failed("cannot read \(path): \(String(cString: strerror(errno)))") }
        var status = stat()
        let isFile = fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
        fileBytes = isFile ? UInt64(status.st_size) : nil
        lines = LineReader(descriptor)
        self.format = format
        executor = try ThreadExecutor()
    }

    /// The next records; nil at the end. What stands before a malformed line comes before its failure.
    func nextBatch() throws(Failure) -> Batch? {
        if let failure { throw failure }
        var batch = Batch()
        var keys: Set<Bytes> = []
        while batch.records.count < RecordSource.batchRecords, batch.payloadBytes < RecordSource.batchBytes {
            do throws(Failure) {
                if pending == nil { pending = try nextRecord() }
                guard let (record, fileBytes) = pending else { break }
                // operations of one batch may be repeated separately, which must not reorder writes of one key
                guard keys.insert(record.key).inserted else { break }
                pending = nil
                batch.records.append(record)
                batch.fileBytes += fileBytes
                batch.payloadBytes += record.key.count + record.value.count
            } catch {
                failure = error
                guard !batch.records.isEmpty else { throw error }
                break
            }
        }
        return batch.records.isEmpty ? nil : batch
    }

    private func nextRecord() throws(Failure) -> (record: Record, fileBytes: Int)? {
        while true {
            let format = format
            let line: (parsed: Result<Record, MalformedRecord>?, count: Int)?
            do throws(LineReader.Problem) {
                line = try lines.next { line in
                    (line.isEmpty ? nil : format.record(line), line.count)
                }
            } catch {
                throw .failed("\(name), line \(lines.number): \(error.reason)")
            }
            guard let line else { return nil }
            switch line.parsed {
            case nil: continue
            case .success(let record): return (record, line.count + 1)
            case .failure(let malformed): throw .failed("\(name), line \(lines.number): \(malformed.reason)")
            }
        }
    }
}

/// Splits what a descriptor gives into lines.
struct LineReader {
    struct Problem: Error {
        let reason: String
    }

    /// Number of the line returned last; of the one that failed, if one did.
    private(set) var number = 0

    private let descriptor: Int32
    private var buffer: [UInt8] = []
    private var start = 0
    /// Up to here there is no line feed.
    private var searched = 0
    private var isAtEnd = false

    private static let readBytes = 256 << 10
    /// A value of 8 MiB whose every byte is written as a JSON escape fits.
    static let lineBytesMax = 64 << 20

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// Calls `body` with the next line, without its end; nil at the end. A last line without a line feed counts.
    mutating func next<R>(_ body: (UnsafeRawBufferPointer) -> R) throws(Problem) -> R? {
        while true {
            if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                defer { (start, searched) = (end + 1, end + 1) }
                return line(to: end, body)
            }
            searched = buffer.count
            if isAtEnd {
                guard start < buffer.count else { return nil }
                defer { start = buffer.count }
                return line(to: buffer.count, body)
            }
            guard buffer.count - start <= LineReader.lineBytesMax else {
                number += 1
                throw Problem(reason: "longer than \(LineReader.lineBytesMax) bytes")
            }
            try fill()
        }
    }

    private mutating func line<R>(to end: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        number += 1
        let hasReturn = end > start && buffer[end - 1] == UInt8(ascii: "\r")
        let range = start..<(hasReturn ? end - 1 : end)
        return buffer.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[range])) }
    }

    private mutating func fill() throws(Problem) {
        // what is done with makes room once it is most of the buffer, so that each byte moves once at most
        if start > buffer.count / 2 {
            buffer.removeSubrange(..<start)
            searched -= start
            start = 0
        }
        let used = buffer.count
        buffer.append(contentsOf: repeatElement(0, count: LineReader.readBytes))
        var count: Int
        repeat {
            count = buffer.withUnsafeMutableBytes {
                read(descriptor, $0.baseAddress.map { $0 + used }, LineReader.readBytes)
            }
        } while count < 0 && errno == EINTR
        let failure = errno
        buffer.removeLast(LineReader.readBytes - max(0, count))
        guard count >= 0 else {
            number += 1
            throw Problem(reason: "cannot be read: \(String(cString: strerror(failure)))")
        }
        isAtEnd = count == 0
    }
}
