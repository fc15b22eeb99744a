-- 089_search_branches.sql: the search by words is of branches and tags, so that 100,000 pull requests cost a first backup nothing.

drop index ref_by_words;
-- As in 088, without a regular expression: each byte that is no letter, digit or backslash of an escape ends a word.
create or replace function ref_words(name bytea) returns tsvector language sql immutable strict parallel safe as $$
  select array_to_tsvector(array_remove(array_remove(array_remove(array_remove(
    string_to_array(
      translate(lower(encode(substring($1 from 1 for 1000), 'escape')), '/-_.!"#$%&''()*+,:;<=>?@[]^`{|}~ ', repeat(' ', 33)), ' '
    ),
    ''), 'refs'), 'heads'), 'tags'))
$$;

-- Whether people call it a branch or a tag.
create function is_branch_or_tag(name bytea) returns boolean language sql immutable strict parallel safe as $$
  select $1 >= 'refs/heads/'::bytea and $1 < 'refs/heads0'::bytea or $1 >= 'refs/tags/'::bytea and $1 < 'refs/tags0'::bytea
$$;
create index ref_by_words on ref using gin (ref_words(name)) where is_branch_or_tag(name);
