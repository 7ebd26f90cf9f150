"""Guesses of what an answer says next."""

from __future__ import annotations

from extraction.decoding.drafting import draft
from task.triplets import Triplet

FILM = "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。"


def test_drafts() -> None:
    item = '{"predicate": "主演", "object_type": "人物", "subject_type": "影视作品", "object":'
    earlier = [Triplet("主演", "人物", "影视作品", "林在培", "娘家的故事第二部")]
    after = '", "subject": "'
    subject = '娘家的故事第二部"}, {"predicate": "'
    assert draft(" ```json\n", FILM, []) == '[{"predicate": "'
    assert draft(item + ' "张', FILM, []) == "玲执导" + after + subject
    assert draft(item, FILM, earlier) == (' "何赛飞等主演的电视剧' + after + subject)[:48]
    assert draft(item + ' "张玲", "subject": "', FILM, earlier) == subject
    assert draft(item + ' "张玲", "subject": "娘家', FILM, []) == subject[2:]
    assert draft('{"predicate": "主', FILM, earlier) == ""
