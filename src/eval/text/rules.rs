//! Rules of [`super::ptb`], as data.
//!
//! The longest match wins, the earlier rule on a tie. As in the reference, words in `(?i:)` match
//! in any case and character classes as written: `Ill.` and `Mass.` are states, `ill.` and `mass.`
//! end a sentence.

use super::ptb::{
    Rule,
    TextEdit::{self, As, Keep, Replace},
};

/// Parts of rules: `{NAME}` stands for the expression in rules and later parts.
pub(super) const PARTS: &[(&str, &str)] = &[
    ("SPACE", r"[ \t\u00A0\u2000-\u200A\u3000]"),
    (
        "BLANK",
        r"[ \t\u00A0\u2000-\u200A\u3000\r\n\x0B\x0C\u0085\u2028\u2029]",
    ),
    ("ALPHA", r"[\pL&&[\u0000-\uFFFF]]"),
    ("DIGIT", r"[\p{Nd}&&[\u0000-\uFFFF]]"),
    (
        "LETTER",
        r"(?:[{ALPHA}[\pM&&[\u0300-\u0ECD]]\u00AD]|&[aeiouAEIOU](?i:acute|grave|uml);)",
    ),
    ("WORDPART", r"{LETTER}(?:{LETTER}|{DIGIT})*"),
    ("WORD", r"{WORDPART}(?:[.!?]{WORDPART})*"),
    ("APOS", r"(?:['\u0092\u2019]|(?i:&apos;))"),
    ("INNERAPOS", r"(?:{APOS}|[`\u0091\u2018\u201B])"),
    // Endings of contractions.
    ("CLITIC", r"{APOS}(?:[msdMSD]|(?i:re|ve|ll))"),
    ("NOT", r"(?i:n){INNERAPOS}(?i:t)"),
    (
        "NUMBER",
        r"(?:{DIGIT}+|{DIGIT}*(?:[.:,\u00AD\u066B\u066C]{DIGIT}+)+)",
    ),
    ("FRACTION", r"{DIGIT}{1,4}(?:\\?/|\u2044){DIGIT}{1,4}"),
    ("AMP", r"(?:&|(?i:&amp;))"),
    ("LESS", r"(?:<|(?i:&lt;))"),
    ("GREATER", r"(?:>|(?i:&gt;))"),
    ("PAUSE", r"[,;:\u3001]"),
    // Markup, addresses, files.
    ("NAME", r"[A-Za-z][A-Za-z0-9_:.\-]*"),
    ("ATTRIBUTE", r#"{NAME}(?: *= *(?:'[^']*'|"[^"]*"))?"#),
    (
        "MARKUP",
        r"<(?:[!?][A-Za-z\-][^>\r\n]*|{NAME}(?: +{ATTRIBUTE})* */?|/{NAME}) *>",
    ),
    (
        "HOST",
        concat!(
            r#"(?i:www\.)(?:[^ \t\n\x0C\r"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^ \t\n\x0C\r"`'<>|"#,
            r#".!?(){},-_$]+\.)+(?i:com|net|org|edu)"#,
        ),
    ),
    ("URLEND", r#"[^ \t\n\x0C\r"<>|.!?(){},\-]"#),
    ("MAIL", r#"[^ \t\n\x0C\r"<>|(){}.\u00A0]+"#),
    ("STEM", r"(?:{LETTER}|{DIGIT})+"),
    (
        "SUFFIX1",
        r"bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov",
    ),
    (
        "SUFFIX",
        r"(?i:{SUFFIX1}|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip)",
    ),
    // Words of several parts.
    (
        "PIECE",
        r"(?:[dDoOlL]{INNERAPOS}[{ALPHA}{DIGIT}])?[{ALPHA}{DIGIT}]+",
    ),
    ("HYPHENATED", r"{PIECE}(?:[\-_\u058A\u2010\u2011]{PIECE})*"),
    (
        "COUNTRY",
        r"(?i:canada|sino|korean|eu|japan|non)-(?i:u\.s)|(?i:u\.s\.-(?:u\.k|u\.s\.s\.r))",
    ),
    ("DOTTED", r"(?:[A-Za-z](?:\.[A-Za-z])+|{COUNTRY})"),
    ("ACRONYM", r"(?:[A-Za-z]|{DOTTED})"),
    (
        "MIXED",
        r"[A-Za-z0-9][A-Za-z0-9.,\u00AD]*(?:-(?:[A-Za-z0-9\u00AD]+|{DOTTED}\.))+",
    ),
    ("FIRM", r"[A-Z]+(?:(?:\+|{AMP})[A-Z]+)+"),
    ("SLASHED", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"),
    // Abbreviations that keep their period.
    (
        "MONTH",
        r"(?i:jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec)",
    ),
    ("DAY", r"(?i:mon|tue|tues|wed|thu|thurs|fri)"),
    (
        "STATE1",
        concat!(
            r"ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|",
            r"nev|okla|penn|tenn|va|vt|wisc?|wyo",
        ),
    ),
    (
        "STATE2",
        r"A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash)",
    ),
    (
        "COMPANY",
        r"(?i:inc|cos?|corp|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys)|(?i:pp?t)[ye](?i:s?)",
    ),
    ("DEGREE", r"(?i:jr|sr|bros|(?:ed|ph)\.d|blvd|rd|esq)"),
    ("MEASURE", r"(?i:tel|est|ext|sq|etc|al|seq|bldg)"),
    (
        "ABBREVIATION",
        r"(?:{MONTH}|{DAY}|(?i:{STATE1})|{STATE2}|{COMPANY}|{DEGREE}|{MEASURE})\.",
    ),
    (
        "RANK",
        r"lt|col|gen|adm|maj|sgt|cpl|pvt|capt|lieut|brig|co?mdr|pfc|spc|sfc|ens|adj|adv",
    ),
    (
        "OFFICE",
        r"drs?|profs?|sens?|reps?|attys?|messrs|govs?|rev|pres|hon|supts?|det|asst|assoc|insp|msgr",
    ),
    (
        "TITLE",
        r"(?i:mr|mrs|ms|mlle|mme|{RANK}|{OFFICE}|ste?|ave|mt|ft)|M(?i:iss)",
    ),
    (
        "SHORT",
        r"(?i:vs|ph|alex|wm|jos|cie|a\.k\.a|cf|treas|invt|elec|natl|dept)|[Mm][ft][Gg]",
    ),
    ("BEFORENAME", r"(?:{TITLE}|{SHORT}|{ACRONYM})"),
    // Words that begin a sentence: a single letter with a period before them ends one.
    (
        "STARTA",
        concat!(
            r"A(?i:|bout|ccording|dditionally|fter|n|s|t)|B(?i:ut)|E(?i:arlier)|H(?i:e|er|ere|",
            r"owever)|I(?i:f|n|t)|L(?i:ast)",
        ),
    ),
    (
        "STARTM",
        r"M(?i:any|ore|r\.|s\.)|N(?i:ow)|O(?i:nce|ne|ther|ur)|S(?i:he|ince|o|ome|uch)|Y(?i:et|ou)",
    ),
    (
        "STARTT",
        r"T(?i:hat|he|heir|hen|here|hese|hey|his)|W(?i:e|hat|hen|hile)",
    ),
    // Telephone numbers and emoticons.
    (
        "DIAL",
        r"(?:\([0-9]{2,3}\)[ \u00A0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \u00A0])?[0-9]{2,4}[\- \u00A0])",
    ),
    ("EYE", r"[\-\^x=~<>']"),
];

const SOFT_HYPHEN: TextEdit = Replace(&[("\u{AD}", "")]);
const AMPERSAND: TextEdit = Replace(&[("&amp;", "&")]);
const SPACE: TextEdit = Replace(&[(" ", "\u{A0}")]);
const BRACKETS: TextEdit = Replace(&[(" ", "\u{A0}"), ("(", "-lrb-"), (")", "-rrb-")]);
const CURRENCY: TextEdit = Replace(&[
    ("¢", "cents"),
    ("£", "#"),
    ("\u{80}", "$"),
    ("¤", "$"),
    ("₠", "$"),
    ("€", "$"),
]);
const FRACTION: TextEdit = Replace(&[
    ("¼", "1/4"),
    ("½", "1/2"),
    ("¾", "3/4"),
    ("⅓", "1/3"),
    ("⅔", "2/3"),
]);
const QUOTE: TextEdit = Replace(&[
    ("&apos;", "'"),
    ("&quot;", "''"),
    ("\"", "''"),
    ("\u{91}", "`"),
    ("‘", "`"),
    ("‛", "`"),
    ("‹", "`"),
    ("\u{92}", "'"),
    ("’", "'"),
    ("›", "'"),
    ("\u{93}", "``"),
    ("“", "``"),
    ("«", "``"),
    ("\u{94}", "''"),
    ("”", "''"),
    ("»", "''"),
]);

const fn rule(token: &'static str, edit: TextEdit) -> Rule {
    Rule {
        token,
        before: "",
        edit,
    }
}

const fn followed(token: &'static str, before: &'static str, edit: TextEdit) -> Rule {
    Rule {
        token,
        before,
        edit,
    }
}

/// All rules, in order of precedence.
pub(super) const RULES: &[Rule] = &[
    rule(r"[Cc]\+\+|[CcFf]#", Keep),
    // Words that are split in two.
    followed(r"(?i:can)", r"(?i:not)", Keep),
    followed(r"'(?i:t)", r"(?i:was|is)", Keep),
    followed(r"(?i:gon|wan)", r"(?i:na)", Keep),
    followed(r"(?i:got)", r"(?i:ta)", Keep),
    followed(r"(?i:lem|gim)", r"(?i:me)", Keep),
    // Markup and entities.
    rule(r"{MARKUP}", SPACE),
    rule(
        r"&(?i:md|mdash|ndash);|[\u0096\u0097\u2013\u2014\u2015]",
        As("--"),
    ),
    rule(r"{AMP}", AMPERSAND),
    rule(r"&(?:(?i:ht|tl|ur|lr|qc|ql|qr|odq|cdq)|#[0-9]+);", Keep),
    // Words and contractions.
    followed(r"{WORD}", r"{CLITIC}", SOFT_HYPHEN),
    followed(
        r"[A-Za-z\u00AD]*[A-MO-Za-mo-z]\u00AD*",
        r"{NOT}",
        SOFT_HYPHEN,
    ),
    rule(r"{WORD}", SOFT_HYPHEN),
    rule(
        concat!(
            r"{APOS}(?i:n){APOS}?|[lLdDjJ]{APOS}|(?i:dunkin|somethin|ol){APOS}|{APOS}(?i:em|",
            r"till?|cause)|{APOS}[2-9](?i:0s)",
        ),
        Keep,
    ),
    rule(
        concat!(
            r"[A-HJ-XZn]{INNERAPOS}{ALPHA}{2}{ALPHA}*|",
            r"{ALPHA}{ALPHA}*[aeiouyAEIOUY]{INNERAPOS}[aeiouA-Z]{ALPHA}*",
        ),
        Keep,
    ),
    rule(
        r"(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)|[Oo]{INNERAPOS}[Oo]",
        Keep,
    ),
    followed(r"[Yy]{APOS}", r"{ALPHA}", Keep),
    // Addresses.
    rule(r#"(?i:https?://)[^ \t\n\x0C\r"<>|(){}]+{URLEND}"#, Keep),
    rule(r#"(?:{HOST})(?:/[^ \t\n\x0C\r"<>|()]+{URLEND})?"#, Keep),
    rule(
        r#"{LESS}?[a-zA-Z0-9][^ \t\n\x0C\r"<>|()\u00A0{}]*@(?:{MAIL}\.)*{MAIL}{GREATER}?"#,
        Keep,
    ),
    rule(r"@[a-zA-Z_][a-zA-Z_0-9]*|#{LETTER}+", Keep),
    followed(r"{CLITIC}", r"[^A-Za-z]", QUOTE),
    followed(r"{NOT}", r"[^A-Za-z]", QUOTE),
    // Numbers and money.
    rule(r"{DIGIT}{1,2}[\-/]{DIGIT}{1,2}[\-/]{DIGIT}{2,4}", Keep),
    rule(r"[\-+]?{NUMBER}", SOFT_HYPHEN),
    rule(
        r"[\u207A\u207B\u208A\u208B]?(?:[\u2070\u00B9\u00B2\u00B3\u2074-\u2079]+|[\u2080-\u2089]+)",
        Keep,
    ),
    rule(r"(?:{DIGIT}{1,4}[\- \u00A0])?{FRACTION}", SPACE),
    rule(r"[\u00BC\u00BD\u00BE\u2153-\u215E]", FRACTION),
    rule(
        concat!(
            r"-(?i:[lr][rcs]b)-|(?i:c\.d\.s|pro-|anti-)|[Ss]{AMP}(?i:p-500|ls)|",
            r"(?i:cap){APOS}[Nn]|[Cc]{APOS}(?i:est)",
        ),
        AMPERSAND,
    ),
    rule(r"{SLASHED}(?:\\?/{SLASHED}){1,2}", Keep),
    rule(r"[A-Z]*\$|#", Keep),
    rule(
        r"[\u00A2-\u00A5\u0080\u20A0\u20AC\u060B\u0E3F\u20A4\uFFE0\uFFE1\uFFE5\uFFE6]",
        CURRENCY,
    ),
    // Abbreviations.
    followed(
        r"[A-Za-z]",
        r"\.{BLANK}+(?:{STARTA}|{STARTM}|{STARTT}|{MARKUP}){BLANK}",
        Keep,
    ),
    followed(
        r"(?i:ca|figs?|prop|nos?|art|bldg|pp|op)\.",
        r"{BLANK}?{DIGIT}",
        Keep,
    ),
    followed(r"{ABBREVIATION}", r"(?s:..)", Keep),
    rule(r"{ABBREVIATION}", Keep),
    rule(r"{BEFORENAME}\.", Keep),
    followed(r"{BEFORENAME}", r"{SPACE}", Keep),
    followed(r"{ACRONYM}", r"{BLANK}", Keep),
    followed(r"{APOS}[0-9][0-9]", r"{BLANK}", Keep),
    followed(
        r"{STEM}(?:\.{STEM})*\.{SUFFIX}",
        r"(?:{BLANK}|[.?!,])",
        Keep,
    ),
    followed(r"{WORD}\.", r"{PAUSE}", SOFT_HYPHEN),
    rule(
        concat!(
            r"{DIAL}[0-9]{3,4}[\- \u00A0]?[0-9]{3,5}|",
            r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        ),
        BRACKETS,
    ),
    // Punctuation.
    rule(r#""|(?i:&quot;)"#, QUOTE),
    rule(r"\x7F", As("")),
    rule(r"{LESS}", As("<")),
    rule(r"{GREATER}", As(">")),
    followed(
        r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]",
        r"[^A-Za-z0-9]",
        BRACKETS,
    ),
    rule(
        r"{EYE}_{EYE}|\({EYE}[_.]?{EYE}\)|\([\^x=~<>']-[\^x=~<>'`]\)",
        BRACKETS,
    ),
    rule(r"\{", As("-lcb-")),
    rule(r"\}", As("-rcb-")),
    rule(r"\[", As("-lsb-")),
    rule(r"\]", As("-rsb-")),
    rule(r"\(", As("-lrb-")),
    rule(r"\)", As("-rrb-")),
    rule(r"-{3,4}", As("--")),
    rule(
        r"-+|@+|#+|_+|\*+|(?:\\\*){1,3}|{PAUSE}|[?!]+|=|/|<<|>>",
        Keep,
    ),
    rule(r"\.{3,5}|(?:\.[ \u00A0]){2,4}\.|[\u0085\u2026]", As("...")),
    rule(
        r"[.¡¿\u037E\u0589\u061F\u06D4\u0700-\u0702\u07FA\u3002]",
        Keep,
    ),
    // More words.
    followed(r"{MIXED}\.", r"{PAUSE}", SOFT_HYPHEN),
    rule(r"{MIXED}", SOFT_HYPHEN),
    followed(r"{HYPHENATED}\.", r"{PAUSE}", Keep),
    rule(r"{HYPHENATED}", Keep),
    followed(r"{FIRM}\.", r"{PAUSE}", AMPERSAND),
    rule(r"{FIRM}", AMPERSAND),
    // Quotes.
    followed(r"'", r"[A-Za-z][^ \t\n\r\u00A0]", As("`")),
    rule(r"{CLITIC}|{NOT}", QUOTE),
    rule(
        r"{APOS}|''|[`\u2018-\u201F\u0091-\u0094\u2039\u203A\u00AB\u00BB]{1,2}",
        QUOTE,
    ),
    // Symbols that stand alone.
    rule(
        concat!(
            r"[+%&~\^|\\\u00A6-\u00A9\u00AC\u00AE-\u00BA\u00D7\u00F7\u0387\u05BE\u05C0\u05C3",
            r"\u05C6\u05F3\u05F4\u0600-\u0603]",
        ),
        Keep,
    ),
    rule(
        concat!(
            r"[\u0606-\u060A\u060C\u0614\u061B\u061E\u066A\u066D\u0703-\u070D\u07F6-\u07F8",
            r"\u0964\u0965\u0E4F\u1FBD\u2016\u2017]",
        ),
        Keep,
    ),
    rule(
        concat!(
            r"[\u2020-\u2023\u2030-\u2038\u203B\u203E-\u2042\u2044\u207A-\u207F\u208A-\u208E",
            r"\u2100-\u214F\u2190-\u2BFF]",
        ),
        Keep,
    ),
    rule(
        r"[\u3012\u30FB\uFF01-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65]",
        Keep,
    ),
    // White space. Text that no rule matches is dropped as well.
    rule(r"{BLANK}+|(?i:&nbsp;)", As("")),
];
