/// Names one promise of a node to another exactly: an epoch, and the run numbers of both nodes under which it was given.
///
/// Two promises of the same directed pair of nodes never have the same stamp; renewals of one promise share it.
public struct SupportStamp: Equatable, Sendable {
    /// Counts the promises a run of the supporter has given.
    public var epoch: UInt64
    /// The run of the node that promised.
    public var supporterRun: UInt64
    /// The run of the node it promised to.
    public var askerRun: UInt64

    /// A name.
    public init(epoch: UInt64, supporterRun: UInt64, askerRun: UInt64) {
        self.epoch = epoch
        self.supporterRun = supporterRun
        self.askerRun = askerRun
    }
}
