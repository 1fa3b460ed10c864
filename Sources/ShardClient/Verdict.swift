internal import ShardMap

/// What a whole reply's error means for the request it answers.
enum Verdict {
    /// Ask the leader that is named, or somebody else.
    case follow
    /// Not executed; ask the same node later.
    case retry
    /// Not executed; ask another node later.
    case retryElsewhere
    /// Not executed; the map is out of date, or the node is.
    case refreshMap
    /// Not executed; the map will say in a moment where to ask.
    case awaitMove
    /// This attempt was not executed, for want of a session.
    case reopenSession
    /// It may yet be executed; only asking again under the same number tells.
    case uncertain
    /// It will not be otherwise another time.
    case final
}

extension NamedError {
    /// What the error means as the answer to a whole request.
    var verdict: Verdict {
        switch self {
        case .notLeader: .follow
        case .busy, .deadlineExceeded, .windowExceeded: .retry
        case .noLeader, .notServed, .stopping, .damaged, .notInitialized, .unreachable: .retryElsewhere
        case .wrongShard, .noSuchGroup, .wrongIdentity: .refreshMap
        case .shardFrozen: .awaitMove
        case .sessionExpired: .reopenSession
        case .outcomeUnknown: .uncertain
        case .sequenceTooOld, .sequenceReused, .keyTooLarge, .valueTooLarge, .notAnInteger, .overflow, .badRequest,
            .diskFull, .refused, .unknownFormat, .internalError, .staleOperation,
            .conflict, .noSuchShard, .noSuchOperation, .noSuchNode, .levelTooLow, .programTooOld:
            .final
        }
    }

    /// The error as the outcome of a request of which an earlier attempt may have been executed: that attempt then
    /// decides, and this one's refusal says nothing about it.
    func afterUncertainAttempt(_ mayHaveExecuted: Bool) -> NamedError {
        mayHaveExecuted && outcome == .notExecuted ? .outcomeUnknown : self
    }
}
