"""The commonest words of some languages in Latin script, for telling one from another.

Knows: words, written down by hand. Refuses to know: what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FUNCTION_WORDS", "FunctionWords"]


@dataclass(frozen=True, slots=True)
class FunctionWords:
    """A language's name, and its function words in lower case.

    `common` ones alone are no evidence: they also stand in other languages' text, as names, loans, abbreviations,
    commands or the pieces of contractions.
    """

    name: str
    sure: frozenset[str]
    common: frozenset[str]


def _words(name: str, sure: str, common: str = "") -> FunctionWords:
    return FunctionWords(name, frozenset(sure.split()), frozenset(common.split()))


FUNCTION_WORDS = {
    "en": _words(
        "English",
        "the of and to for on with that this was are be by as at or an from not what how why when where who which can "
        "does do did has have had will would should could may if but than then these those there their they you your "
        "we our he she his her its my so no more most any all between into about after before during such other also "
        "only over under because while been being out some without through us them just very same each both own too "
        "against until within use using used new one two make must",
        "in is it me i a up get am",
    ),
    "de": _words(
        "German",
        "und nicht sind eine einen einem einer eines für auf zum zur auch sich wird werden wurde wurden nach über "
        "oder aber wenn kann können ich sie wir ihr nur noch warum wann welche welcher welches mein meine meinen "
        "keine kein durch vor unter zwischen dass daß diese dieser dieses haben hatte seine gibt funktioniert fuer "
        "ueber muss koennen beim viele viel seit gegen ohne",
        "ist der die das den dem des ein mit von zu im wie bei aus man du er wo wer als bis hat sein war es in so vom "
        "um am was",
    ),
    "fr": _words(
        "French",
        "dans avec quel quelle quels où cette nous vous leur leurs être était été mais donc comme très peut pourquoi "
        "quand combien votre aussi depuis tous qu à même puis lors ainsi",
        "le la les des du de un une et est sont pour par sur pas plus ne que qui quoi ou au aux ce ces il elle ils je "
        "on son sa ses fait faire comment mon ma mes entre sans tout en se c d l chez",
    ),
    "es": _words(
        "Spanish",
        "unos qué cómo cuál cual cuándo cuando dónde donde quién porque cuánto cuántos más está están también muy "
        "estos puedo puede hacer desde hasta ¿ ¡ otros otra",
        "el la los las de del un una y en es son con para por que como pero su se lo al no sin entre fue ser hay este "
        "esta mi tu ya o ha han cada todo sus sobre mis",
    ),
    "it": _words(
        "Italian",
        "gli della delle dal dalla nella allo è sono che sulla anche più hanno perché quando quale quanto questo "
        "questa questi posso può essere stato suo sua viene",
        "il lo la le di del un una uno e chi cosa come con per non si da al ma ho dove tra fra i o in a ai ci dei nel "
        "alla sul fare ed",
    ),
    "pt": _words(
        "Portuguese",
        "uma é qual quando onde quem porque mais não seu sua à aos pelo pela também muito foi está estão fazer "
        "posso pode isso meu minha até já eu você",
        "o os as um de do da dos das no na nos nas em e para por que como mas se ao ser este esta entre sem ou com "
        "sobre são",
    ),
    "nl": _words(
        "Dutch",
        "een niet zijn voor aan ook naar wordt worden wat waarom wanneer waar welke mijn jij hij zij wij deze nog werd "
        "heeft hebben onder tussen geen moet veel we",
        "de en van is in op te die met er als maar om bij uit hoe wie kan ik je dit dan tot over of u al het dat "
        "door kun",
    ),
    "sv": _words(
        "Swedish",
        "och är för på inte jag vad hur varför när vilken vilket eller från så mellan också mycket ska blir många "
        "efter utan detta där finns",
        "att det som en ett av med den till om har var kan man de vid sig under mot han hon i men",
    ),
    "da": _words(
        "Danish or Norwegian",
        "og af på ikke jeg hvad hvordan hvor hvorfor hva hvem hvornår eller skal ved også blev være mellem mellom "
        "efter etter denne dette så mye meget",
        "at det er en et den til med for som fra kan har var ble man de der om mig deg i av",
    ),
    "fi": _words(
        "Finnish",
        "että mutta niin myös jotka mitä miten kuinka miksi milloin ovat hän olla voi voin voiko mikä missä jos kuin "
        "tämä tämän sekä kanssa jälkeen mukaan",
        "ja on ei oli tai se sen ne kun joka ole vain",
    ),
    "pl": _words(
        "Polish",
        "się nie że dla oraz czy są być był była było przez przy który która które jego tym tego także lub gdzie "
        "kiedy dlaczego może można tylko już jaki jakie jako",
        "na jak od po za ale co z w i do to ma jest",
    ),
    "cs": _words(
        "Czech",
        "že jako jsou který která které není také nebo byl byla bylo podle při kde proč může být jaké jaký kdy mezi "
        "jeho však",
        "se je na pro ale jak po za co od do v s z k ve ze",
    ),
    "hu": _words(
        "Hungarian",
        "és hogy egy vagy csak még már kell hogyan milyen ezt azt után miért lehet szerint mikor hol pedig",
        "meg van volt mi mit sem el ki a is az nem ez mint",
    ),
    "ro": _words(
        "Romanian",
        "și sunt pentru sau fost într când unde acest această prin după în să",
        "si este pe mai nu cu ce fi lui la de un o sa se al ale cel care din cum",
    ),
    "tr": _words(
        "Turkish",
        "bir için olarak gibi daha çok nasıl nedir değil kadar sonra olan veya ancak hangi neden niçin mı ise göre "
        "tarafından",
        "ve bu ile var ne ki mi da de en",
    ),
    "id": _words(
        "Indonesian",
        "untuk dengan itu dari pada adalah tidak dalam akan oleh juga bagaimana bisa atau karena sebagai mengapa "
        "kapan cara tersebut",
        "dan yang di ke saya ini apa",
    ),
    "vi": _words(
        "Vietnamese",
        "và của là không có được những một các người này với để khi đã như thế nào gì tại về làm từ",
        "cho trong sao",
    ),
}
"""By ISO 639-1 code."""
