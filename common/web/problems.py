"""What a person sees when something is wrong: a page, or a part of one for htmx, with what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from common.errors import FedctError, StorageError, UsageError, from_os_error

if TYPE_CHECKING:
    from common.web.page import Viewer

logger = logging.getLogger("fedct.web")


def install(app: FastAPI, viewer: Callable[[Request], Viewer]) -> None:
    """Answer every error that ``app`` expects with a page."""

    def http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, StarletteHTTPException) else 500
        detail = str(getattr(error, "detail", ""))
        texts = viewer(request).t
        found = [key for key in (f"problem.{status}-{detail}", f"problem.{status}", "problem.400") if key in texts]
        response = _answer(viewer(request), status, texts(found[0]))
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    def invalid(request: Request, error: Exception) -> Response:
        view, fields = viewer(request), ""
        if isinstance(error, RequestValidationError):
            fields = ", ".join(sorted({str(item["loc"][-1]) for item in error.errors()}))
        return _answer(view, 422, view.t("problem.422"), view.t("problem.fields", fields=fields))

    def ours(request: Request, error: Exception) -> Response:
        found = from_os_error(error) if isinstance(error, OSError) else error
        if not isinstance(found, FedctError):
            raise error
        status = 503 if isinstance(found, StorageError) else 404 if _not_there(request, found) else 409
        return _answer(viewer(request), status, found.message, found.remedy)

    app.add_exception_handler(StarletteHTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(FedctError, ours)
    app.add_exception_handler(OSError, ours)


def unexpected(viewer: Callable[[Request], Viewer]) -> Callable[[Request, Exception], Response]:
    """The answer to whatever nobody expected: it goes to the log, and nothing of it to the browser."""

    def answer(request: Request, error: Exception) -> Response:
        logger.error("unexpected %s at %s", type(error).__name__, request.url.path, exc_info=error)
        view = viewer(request)
        return _answer(view, 500, view.t("problem.500"))

    return answer


def _answer(view: Viewer, status: int, message: str, remedy: str = "") -> Response:
    part = "_problem.html.j2" if "hx-request" in view.request.headers else "problem.html.j2"
    return view.show(part, status, message=message, remedy=remedy)


def _not_there(request: Request, error: FedctError) -> bool:
    """Whether a wrong argument came by an address rather than by a form."""
    return isinstance(error, UsageError) and request.method == "GET"
