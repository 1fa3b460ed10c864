public import ShardMap
internal import Transport

/// Why a call of ``Client`` has no result. Whether it may have been executed all the same: `error.outcome`.
public struct ClientError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Which.
    public var error: NamedError
    /// A sentence for people.
    public var message: String

    /// `error`; `detail` is added to its sentence.
    public init(_ error: NamedError, _ detail: String? = nil) {
        self.error = error
        message = detail.map { "\(error.sentence): \($0)" } ?? error.sentence
    }

    init(_ thrown: NamedErrorThrown) { self.init(thrown.error, thrown.message) }

    init(_ failure: RpcError) { self.init(failure.named, failure.description) }

    /// The sentence.
    public var description: String { message }
}
