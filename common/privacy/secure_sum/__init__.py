"""Secure sum: the aggregator learns the sum over the platforms that finished a round, and nothing else.

After Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", in its variant
against an active aggregator, with one enrolment a run and fresh secrets a round. The aggregator is malicious for
privacy and honest for availability: it may send anything to anyone and work with up to c platforms; it can always stop
a run. A wrong sum is not prevented.

The steps, each a message to every platform and its answer:

1. *advertise*, once a run. Out: the roster. Back: X25519 keys (one for shares, one a round for masks) and digests of
   the self-mask secrets, signed by the platform's pinned identity together with the roster's digest.
2. *share*, once a run. Out: all adverts. Back: for each peer a sealed envelope with Shamir shares of every round's mask
   key and self-mask secret.
3. *masked vector*, each round. Out: in the first round the envelopes. Back: values + Σ pairwise masks + own mask.
4. *survivors*, each round. Out: the list of platforms whose vectors arrived. Back: the unmasking shares if the list
   names all that enrolled, else a signature over it.
5. *unmask*, only in a round with a dropout. Out: the signatures. Back: the unmasking shares.

So 2 messages a run and 2 a round, 3 after a dropout (``server/federation/collect.py`` sends the envelopes as a third
enrolment message of their own). A roster with r = 0 needs 1 a run and 1 a round, 2 a run in that module: there is no own
mask and no share, the pairwise masks cancel when all vectors are in, and no platform ever answers anything that could
unmask a part. (The adverts then travel with the first round's request.)

Why the aggregator and c platforms together learn the sum and nothing else:

- *No one sits in the middle.* Adverts are verified against identity keys whose fingerprints were compared out of band.
  Every mask key, envelope and signature is bound to the transcript: roster, run and all keys. Platforms that were shown
  different adverts, or old ones, share no key: their envelopes do not open, and nobody masks before all have opened.
- *Rounds are independent.* Each round's mask key pair and self-mask secret are drawn independently. That all rounds'
  shares are sent at enrolment changes nothing: revealing a missing platform's mask key of round t says nothing about
  the keys of other rounds. A round's secrets and shares are dropped from the state when a later one is masked.
- *Never both secrets of one platform.* A platform gives shares for at most one survivor list a round. To rebuild both
  secrets of some platform, threshold shares of each are needed, of which colluders can give c twice: that takes
  2·threshold − 2c different honest platforms out of P − c, excluded by 2·threshold > P + c.
- *One list only.* Honest platforms act on the full list, or on a list L with threshold signatures. Two different lists
  cannot both be signed by threshold platforms when honest ones sign one a round: again 2·threshold > P + c. So only the
  full list F and one L can be in play; the platforms outside L get either their self-mask or their mask key revealed by
  threshold platforms, not both; what comes out is the sum over F or the sum over L. That is why F needs no signatures,
  while without them on partial lists each platform could be shown another one, and the sum left over could run over
  fewer than P − r.
- *Enough platforms.* Lists shorter than P − r are refused, and P − c − r ≥ 2 by the roster. With noise shares of
  σ/√(P − c − r) the sum carries at least σ after the colluders have taken theirs away.
- *One broadcast a round.* The pairwise masks of a round are bound to a digest of what the platform was told in it: the
  request, and the vocabulary (``common.contributions.broadcast``). Between two honest platforms that were told
  different things no
  mask cancels, and neither key is known to the aggregator but by leaving one of the two out of the sum. So a total that
  comes out is one over honest platforms that all answered the same broadcast; any other is uniform over the ring.
- *One vector a round.* A second, different vector under the same masks is refused; a repeat gives identical bytes.

What it does not do: prove what a platform masked. A platform that sends unmasked or false values spoils the sum. Values
that were not masked as agreed leave the sum uniform over the ring, outside its public bound but with probability below
2^−n for n values, and the round is void; who it was stays hidden (naming needs noise per platform). False values inside
the bound are not noticed. The platform itself cannot leave its masks out by accident: ``mask`` is the only way to a
message.

Cost for a platform: P key agreements and P·n words of AES-CTR a round; n·bits/8 bytes up.
"""

from common.privacy.secure_sum.client import SecureSumClient
from common.privacy.secure_sum.driver import LostAt, RoundResult, enrol_all, local_federation, run_round
from common.privacy.secure_sum.identity import PlatformIdentity, fingerprint
from common.privacy.secure_sum.masks import bind
from common.privacy.secure_sum.ring import RingBits, RingConfig, finest_step, noise_tail
from common.privacy.secure_sum.roster import MINIMUM_PLATFORMS, Member, Roster, RosterPolicy, RoundSpec, most_dropouts
from common.privacy.secure_sum.server import SecureSumRound, SecureSumServer

__all__ = [
    "MINIMUM_PLATFORMS",
    "LostAt",
    "Member",
    "PlatformIdentity",
    "RingBits",
    "RingConfig",
    "Roster",
    "RosterPolicy",
    "RoundResult",
    "RoundSpec",
    "SecureSumClient",
    "SecureSumRound",
    "SecureSumServer",
    "bind",
    "enrol_all",
    "finest_step",
    "fingerprint",
    "local_federation",
    "most_dropouts",
    "noise_tail",
    "run_round",
]
