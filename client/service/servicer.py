"""The recommender over gRPC: every refusal of the service is a gRPC status."""
# ruff: noqa: N802 -- the names of the calls are the protocol's

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import grpc

from client.service.recommending import RecommenderService, RefusedRequestError
from common.proto import recommender_pb2 as pb
from common.proto import recommender_pb2_grpc

_Answer = TypeVar("_Answer")


class RecommenderServicer(recommender_pb2_grpc.RecommenderServicer):
    """Hands each call to the service.

    Args:
        service: answers.
    """

    def __init__(self, service: RecommenderService) -> None:
        self._service = service

    def Recommend(self, request: pb.RecommendRequest, context: grpc.ServicerContext) -> pb.RecommendReply:
        return self._answer("Recommend", context, lambda: self._service.recommend(request))

    def RecommendForHistory(
        self, request: pb.RecommendForHistoryRequest, context: grpc.ServicerContext
    ) -> pb.RecommendReply:
        return self._answer("RecommendForHistory", context, lambda: self._service.recommend_for_history(request))

    def SimilarItems(self, request: pb.SimilarItemsRequest, context: grpc.ServicerContext) -> pb.SimilarItemsReply:
        return self._answer("SimilarItems", context, lambda: self._service.similar_items(request))

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainReply:
        return self._answer("Explain", context, lambda: self._service.explain(request))

    def RecordFeedback(
        self, request: pb.RecordFeedbackRequest, context: grpc.ServicerContext
    ) -> pb.RecordFeedbackReply:
        return self._answer("RecordFeedback", context, lambda: self._service.record_feedback(request))

    def IssuePassport(self, request: pb.IssuePassportRequest, context: grpc.ServicerContext) -> pb.IssuePassportReply:
        return self._answer("IssuePassport", context, lambda: self._service.issue_passport(request))

    def RedeemPassport(
        self, request: pb.RedeemPassportRequest, context: grpc.ServicerContext
    ) -> pb.RedeemPassportReply:
        return self._answer("RedeemPassport", context, lambda: self._service.redeem_passport(request))

    def RecommendForPassport(
        self, request: pb.RecommendForPassportRequest, context: grpc.ServicerContext
    ) -> pb.RecommendReply:
        return self._answer("RecommendForPassport", context, lambda: self._service.recommend_for_passport(request))

    def _answer(self, method: str, context: grpc.ServicerContext, answer: Callable[[], _Answer]) -> _Answer:
        """Answer, or end the call with a status."""
        try:
            return self._service.answered(method, answer, remaining=context.time_remaining())
        except RefusedRequestError as refused:
            return context.abort(grpc.StatusCode[refused.status], refused.message)
