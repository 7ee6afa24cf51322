-- Events for readers outside of the cluster: names, ids as ULIDs, texts apart from the rest.  docs/events.md describes the views.

-- The canonical ULID of an id, as shard_worker.domain.ids.ulid_text has it.
CREATE FUNCTION ulid_text(id uuid) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $ulid$
DECLARE
    -- Bytes, because a character of a text is found by walking to it.
    digits CONSTANT bytea := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    hex CONSTANT text := replace(id::text, '-', '');
    -- The first byte gives two characters; after it five bytes give eight.
    a CONSTANT integer := ('x' || left(hex, 2))::bit(8)::integer;
    b CONSTANT bigint := ('x' || substr(hex, 3, 10))::bit(40)::bigint;
    c CONSTANT bigint := ('x' || substr(hex, 13, 10))::bit(40)::bigint;
    d CONSTANT bigint := ('x' || substr(hex, 23, 10))::bit(40)::bigint;
BEGIN
    RETURN encode(substr(digits, (a >> 5) + 1, 1) || substr(digits, (a & 31) + 1, 1)
        || substr(digits, (b >> 35 & 31)::integer + 1, 1) || substr(digits, (b >> 30 & 31)::integer + 1, 1)
        || substr(digits, (b >> 25 & 31)::integer + 1, 1) || substr(digits, (b >> 20 & 31)::integer + 1, 1)
        || substr(digits, (b >> 15 & 31)::integer + 1, 1) || substr(digits, (b >> 10 & 31)::integer + 1, 1)
        || substr(digits, (b >> 5 & 31)::integer + 1, 1) || substr(digits, (b & 31)::integer + 1, 1)
        || substr(digits, (c >> 35 & 31)::integer + 1, 1) || substr(digits, (c >> 30 & 31)::integer + 1, 1)
        || substr(digits, (c >> 25 & 31)::integer + 1, 1) || substr(digits, (c >> 20 & 31)::integer + 1, 1)
        || substr(digits, (c >> 15 & 31)::integer + 1, 1) || substr(digits, (c >> 10 & 31)::integer + 1, 1)
        || substr(digits, (c >> 5 & 31)::integer + 1, 1) || substr(digits, (c & 31)::integer + 1, 1)
        || substr(digits, (d >> 35 & 31)::integer + 1, 1) || substr(digits, (d >> 30 & 31)::integer + 1, 1)
        || substr(digits, (d >> 25 & 31)::integer + 1, 1) || substr(digits, (d >> 20 & 31)::integer + 1, 1)
        || substr(digits, (d >> 15 & 31)::integer + 1, 1) || substr(digits, (d >> 10 & 31)::integer + 1, 1)
        || substr(digits, (d >> 5 & 31)::integer + 1, 1) || substr(digits, (d & 31)::integer + 1, 1), 'escape');
END
$ulid$;
-- The id of a ULID in either case; other texts are refused.
CREATE FUNCTION ulid_uuid(ulid text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $uuid$
DECLARE
    digits CONSTANT text := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    bits bit varying := '';
    hex text := '';
BEGIN
    IF upper(ulid) !~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$' THEN
        RAISE invalid_text_representation USING MESSAGE = format('%L is no ULID: 26 Crockford characters, the first at most 7', ulid);
    END IF;
    FOR place IN 1..26 LOOP
        bits := bits || (strpos(digits, substr(upper(ulid), place, 1)) - 1)::bit(5);
    END LOOP;
    FOR place IN 0..15 LOOP
        hex := hex || lpad(to_hex(substring(bits FROM 3 + 8 * place FOR 8)::bit(8)::integer), 2, '0');
    END LOOP;
    RETURN hex::uuid;
END
$uuid$;

-- The name of an event type; null for one that this schema does not know.
CREATE FUNCTION event_name(event_type smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE event_type
        WHEN 1 THEN 'ThreadCreated' WHEN 2 THEN 'ThreadDestroyed'
        WHEN 3 THEN 'AdministratorIdsJoined' WHEN 4 THEN 'AdministratorIdsLeft'
        WHEN 5 THEN 'MemberIdsJoined' WHEN 6 THEN 'MemberIdsLeft'
        WHEN 7 THEN 'MessagesAdded' WHEN 8 THEN 'MessagesRemoved' END;
-- The JSON of an event's bytes; null where they are no JSON: one damaged event must not fail a query of all.
-- A function that sees texts pins where it looks for others: its caller could lead it to functions of their own.
CREATE FUNCTION event_json(bytes bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path = pg_catalog AS $json$
BEGIN
    RETURN convert_from(bytes, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$json$;
-- The same with null for each text.  Only fields that are named here pass: null for a type or version that is not.
CREATE FUNCTION event_json_without_texts(event_type smallint, event_version smallint, bytes bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog AS $json$
DECLARE
    whole jsonb;
    times jsonb;
BEGIN
    whole := convert_from(bytes, 'UTF8')::jsonb;
    times := jsonb_build_object('at', whole -> 'at', 'createAt', whole -> 'createAt');
    IF event_version <> 1 OR jsonb_typeof(whole) <> 'object' THEN
        RETURN NULL;
    ELSIF event_type = 7 THEN
        RETURN times || jsonb_build_object('senderId', whole -> 'senderId', 'messages', (
            SELECT jsonb_agg(jsonb_build_object(
                       'messageId', message -> 'messageId', 'text', NULL,
                       'replyMessageId', message -> 'replyMessageId', 'toAccountIds', message -> 'toAccountIds')
                   ORDER BY place)
              FROM jsonb_array_elements(whole -> 'messages') WITH ORDINALITY AS each (message, place)));
    ELSIF event_type = 1 THEN
        RETURN times || jsonb_build_object(
            'creatorId', whole -> 'creatorId', 'title', NULL, 'remarks', NULL, 'parentThreadId', whole -> 'parentThreadId',
            'administratorIds', whole -> 'administratorIds', 'memberIds', whole -> 'memberIds');
    ELSIF event_type = 2 THEN
        RETURN times || jsonb_build_object('destroyerId', whole -> 'destroyerId');
    ELSIF event_type = 3 THEN
        RETURN times || jsonb_build_object(
            'adderId', whole -> 'adderId', 'administratorIds', whole -> 'administratorIds');
    ELSIF event_type = 4 THEN
        RETURN times || jsonb_build_object(
            'removerId', whole -> 'removerId', 'administratorIds', whole -> 'administratorIds');
    ELSIF event_type = 5 THEN
        RETURN times || jsonb_build_object('adderId', whole -> 'adderId', 'memberIds', whole -> 'memberIds');
    ELSIF event_type = 6 THEN
        RETURN times || jsonb_build_object('removerId', whole -> 'removerId', 'memberIds', whole -> 'memberIds');
    ELSIF event_type = 8 THEN
        RETURN times || jsonb_build_object('removerId', whole -> 'removerId', 'messageIds', whole -> 'messageIds');
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$json$;
-- The server's time of an event, and the account that caused it; null where the bytes do not say.
CREATE FUNCTION event_at(bytes bytea) RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path = pg_catalog AS $at$
BEGIN
    RETURN timestamptz 'epoch' + (public.event_json(bytes) ->> 'at')::bigint * interval '1 millisecond';
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$at$;
CREATE FUNCTION event_account(bytes bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path = pg_catalog AS $account$
DECLARE
    all_of CONSTANT jsonb := public.event_json(bytes);
BEGIN
    RETURN coalesce(all_of ->> 'senderId', all_of ->> 'adderId', all_of ->> 'removerId',
                    all_of ->> 'creatorId', all_of ->> 'destroyerId');
END
$account$;
-- The first 60 bits of SHA-256: the sum over events is the same in whatever order they are read.
CREATE FUNCTION event_checksum(event text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ('x' || left(encode(sha256(convert_to(event, 'UTF8')), 'hex'), 15))::bit(60)::bigint;

CREATE VIEW journal_event AS
    SELECT shard_id, shard_seq, ulid_text(thread_id) AS thread_id, seq_nr,
           event_name(event_type) AS event, event_version AS version,
           event_at(payload) AS at, event_account(payload) AS account_id,
           event_json_without_texts(event_type, event_version, payload) AS payload,
           epoch, event_json(metadata) ->> 'commandId' AS command_id, written_at,
           thread_id AS thread_uuid, octet_length(payload) AS payload_bytes,
           event_checksum(concat_ws('/', shard_id, shard_seq, ulid_text(thread_id), seq_nr, event_name(event_type),
               event_version, epoch, event_json_without_texts(event_type, event_version, payload))) AS checksum
      FROM journal;
-- The same with the texts: a right of its own.
CREATE VIEW journal_event_text AS
    SELECT shard_id, shard_seq, ulid_text(thread_id) AS thread_id, seq_nr,
           event_name(event_type) AS event, event_version AS version,
           event_at(payload) AS at, event_account(payload) AS account_id,
           event_json(payload) AS payload,
           epoch, event_json(metadata) ->> 'commandId' AS command_id, written_at,
           thread_id AS thread_uuid, octet_length(payload) AS payload_bytes,
           event_checksum(concat_ws('/', shard_id, shard_seq, ulid_text(thread_id), seq_nr, event_name(event_type),
               event_version, epoch, event_json(payload))) AS checksum
      FROM journal;
